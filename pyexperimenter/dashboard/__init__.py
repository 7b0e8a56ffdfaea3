"""A study in the browser. Routes parse, call the public facade, and render; all SQL is below the facade.

Starlette, uvicorn and Jinja2 (the extra ``dashboard``) are imported by this package only.
"""
