"""The Grafana boards, as code: each `<name>.dashboard.py` writes one, `generated/` holds them as JSON.

A board is written from `panels`, `queries`, `variables`, `links` and `annotations`, laid out in rows by
`layout` and put together by `board`. What grafanalib gives is older than what Grafana reads; `normalise`
closes the gap in one place.
"""
