"""``s3proxyctl``: the command for operators. Everything here runs in its process, nothing in the proxy's."""
