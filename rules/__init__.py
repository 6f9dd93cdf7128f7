"""Recording rules, alerts and runbooks, written once here and generated for Prometheus."""
