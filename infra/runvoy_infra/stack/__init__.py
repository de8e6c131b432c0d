"""The CDK app. Only `just bundle` and the tests need it: what is deployed is the template that it made."""
