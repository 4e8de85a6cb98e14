"""HTTP: the application, its endpoints, codecs and schemas, and the client."""
