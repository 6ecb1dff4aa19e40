"""Bundles come in; answers to requests over HTTP go out, from processes that stay upright."""
