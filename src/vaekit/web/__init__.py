"""The HTTP API that clients of A1111's web UI can talk to, and the page; `vaekit serve` runs them."""
