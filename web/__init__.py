"""What every HTTP process of Netwright says the same way: problems, request ids, credentials.

Sits below `api` and `serve`, which may not import each other and must not differ in these.
"""
