# The calls of grafanalib that the dashboards make, and no others.
