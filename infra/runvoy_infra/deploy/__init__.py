"""`runvoy infra`: a deployment made, looked at and taken away with the rights of whoever runs it. Needs boto3."""
