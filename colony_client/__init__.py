"""The boundary between the root and a colony, usable by both and knowing neither.

`artifacts` and `contract` are the models, `wire` reads them from bytes, `signing` and `tokens` say who may speak,
`client` speaks, `errors` draws everything that can go wrong. Import from the module that owns a name; nothing is
imported here, so that a process which only reads models does not load an HTTP client.
"""
