"""The viewer: static files that the gateway and the control function hand out."""
