"""The end-to-end rig: every scenario at once, under a real Prometheus with the real rules.

Agents that watch simulated nodes answer over HTTP in this process. Prometheus scrapes them as an
operator's ServiceMonitor would have it, evaluates the rules and sends alerts to an Alertmanager; all
samples go on to a VictoriaMetrics, where vmalert evaluates the same rules. Time is compressed in the
rules alone (`compression`): a metric is never touched.
"""
