"""How a command reaches the API: endpoints, credentials, deadlines, and what a refusal means to the caller.

A request and an answer are dictionaries here, in the JSON form of their messages: what `--json` prints and grpcurl
takes. Only `client.py` knows gRPC. Start reading there.
"""
