"""How much of the deployment each user takes up: the numbers that commits change (`counts`), waiting for a place of one's
owner's (`places`), and comparing the numbers with the records (`recounts`). The routes by which they are read and set are
`members.quotas`, what is within a quota is said in `core.quotas`."""
