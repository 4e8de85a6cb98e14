"""The benchmark of `/v1/search` over HTTP."""
