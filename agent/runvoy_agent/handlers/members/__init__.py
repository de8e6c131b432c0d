"""Who may use the deployment: users, their keys and the claims by which those get in, their quotas, and that an admin is
left. What a role allows is said in `core.access`, who a call comes from is found in `control`; the first admin comes by
`seeding`, both beside this package."""
