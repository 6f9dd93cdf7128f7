"""Every view of an assessment over HTTP: metrics, the status page, JSON."""
