"""HTTP to whatever the client may call: one request, and many uploads at once. It signs nothing and knows no deployment: that
is `deployment.client`."""
