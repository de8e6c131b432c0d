"""The ports on AWS, by boto3. Nothing here decides, and nothing else imports botocore."""
