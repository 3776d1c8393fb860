"""Servers of the project's own, for stores that can't be had here in any form.

The real drivers speak to them, so they prove which requests a back-end makes and that it
understands the answers. They do not prove the product: it is what its documentation says, as far as
somebody read it.
"""
