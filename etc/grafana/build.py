"""Writes the Grafana dashboards of this directory from the tables below.

    python etc/grafana/build.py            writes them
    python etc/grafana/build.py --check    says which ones differ from the tables; exit code 1 if any does

In expressions, ``{F}`` stands for the label filters of the dashboard, ``{F,more="x"}`` for these and more.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
FILTERS = 'job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
WIDTH = 24
READS = 'operation=~"GetObject|HeadObject|GetObjectPart|HeadObjectPart",code=~"2..|304"'
HITS = "ram|disk|coalesced|revalidated|stale"


class Panel(NamedTuple):
    """One panel. :ivar queries: expression and legend"""

    title: str
    queries: "tuple[tuple[str, str], ...]"
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stack: bool = False
    text: str = ""


class Dashboard(NamedTuple):
    """One file. :ivar rows: a title and its panels :ivar buckets: whether there is a choice of buckets"""

    name: str
    title: str
    rows: "tuple[tuple[str, tuple[Panel, ...]], ...]"
    buckets: bool = False


def graph(title: str, *queries: "tuple[str, str]", **options: Any) -> Panel:
    """Lines over time."""
    return Panel(title, queries, **options)


def stat(title: str, expression: str, unit: str = "short", **options: Any) -> Panel:
    """One number."""
    return Panel(title, ((expression, ""),), unit, "stat", **{"width": 4, "height": 4, **options})


def heat(title: str, metric: str, **options: Any) -> Panel:
    """How values are spread over the buckets of a histogram."""
    return Panel(
        title, ((f"sum by (le) (increase({metric}_bucket{{F}}{RATE}))", "{{le}}"),), "s", "heatmap", **options
    )  # fmt: skip


def rate(metric: str, by: str = "", filters: str = "") -> str:
    """What a counter grows by in a second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{F{',' + filters if filters else ''}}}{RATE}))"


def quantile(q: float, metric: str, by: str = "", filters: str = "") -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    more = f",{filters}" if filters else ""
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{F{more}}}{RATE})))"


def quantiles(metric: str, filters: str = "") -> "tuple[tuple[str, str], ...]":
    """Median, 90 % and 99 %."""
    return tuple((quantile(q, metric, "", filters), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99))


HIT_RATE = (
    f'{rate("s3proxy_http_requests_total", "", f"source=~{chr(34)}{HITS}{chr(34)},{READS}")} / '
    f'{rate("s3proxy_http_requests_total", "", f"source=~{chr(34)}{HITS}|partial|miss{chr(34)},{READS}")}'
)

OVERVIEW = Dashboard(
    "s3proxy-overview",
    "S3 Proxy: overview",
    (
        (
            "Now",
            (
                stat("Hit rate", HIT_RATE, "percentunit"),
                stat("Byte hit rate", 'avg(s3proxy_cache_byte_hit_rate_ratio{F,window="5m"})', "percentunit"),
                stat("Requests", rate("s3proxy_http_requests_total"), "reqps"),
                stat("To clients", rate("s3proxy_http_response_bytes_total"), "Bps"),
                stat("From S3", rate("s3proxy_upstream_bytes_total", "", 'direction="received"'), "Bps"),
                stat("First byte, p99", quantile(0.99, "s3proxy_http_first_byte_seconds"), "s"),
                stat("Saved bytes", "sum(increase(s3proxy_s3_saved_bytes_total{F}[$__range]))", "bytes"),
                stat("Saved requests", "sum(increase(s3proxy_s3_requests_saved_total{F}[$__range]))"),
                stat("Saved, estimate",
                     "sum(increase(s3proxy_estimated_savings_dollars_total{F}[$__range]))", "currencyUSD"),
                stat("Instances", "count(s3proxy_build_info{F})"),
                stat("Ready", "sum(s3proxy_ready{F})"),
                stat("Components not healthy", "count(s3proxy_health_component_status{F} < 1) or vector(0)"),
            ),
        ),
        (
            "Traffic",
            (
                graph("Requests by source", (rate("s3proxy_http_requests_total", "source"), "{{source}}"),
                      unit="reqps", stack=True),
                graph("Requests by status", (rate("s3proxy_http_requests_total", "code"), "{{code}}"),
                      unit="reqps", stack=True),
                graph("Requests by operation", (rate("s3proxy_http_requests_total", "operation"), "{{operation}}"),
                      unit="reqps", stack=True),
                graph("Throughput",
                      (rate("s3proxy_http_response_bytes_total"), "to clients"),
                      (rate("s3proxy_http_request_bytes_total"), "from clients"),
                      (rate("s3proxy_upstream_bytes_total", "direction"), "S3: {{direction}}"), unit="Bps"),
                graph("In flight, and permits",
                      ("sum by (phase) (s3proxy_http_requests_in_flight{F})", "{{phase}}"),
                      ("sum(s3proxy_request_permits_held{F})", "permits held"),
                      ("sum(s3proxy_request_permits_limit{F})", "permits")),
                graph("Turned away, denied, left by clients",
                      (rate("s3proxy_requests_shed_total", "reason"), "shed: {{reason}}"),
                      (rate("s3proxy_requests_denied_total", "reason"), "denied: {{reason}}"),
                      (rate("s3proxy_http_client_aborts_total", "phase"), "left: {{phase}}"), unit="reqps"),
                graph("Client connections", ("sum by (listener) (s3proxy_client_connections{F})", "{{listener}}"),
                      ("sum by (listener) (s3proxy_tunnels{F})", "tunnels: {{listener}}")),
                graph("New connections",
                      (rate("s3proxy_client_connections_opened_total", "listener"), "{{listener}}"),
                      (rate("s3proxy_tls_handshakes_total", "result"), "TLS: {{result}}"), unit="cps"),
                graph("Size of answers", *quantiles("s3proxy_http_response_size_bytes"), unit="bytes"),
                graph("How tunnels end", (rate("s3proxy_tunnels_ended_total", "listener, reason"),
                                          "{{listener}}: {{reason}}"), unit="cps"),
                graph("Tunnels", (rate("s3proxy_tunnel_bytes_total", "listener, direction"),
                                  "{{listener}} {{direction}}"), unit="Bps"),
            ),
        ),
        (
            "Latency",
            (
                graph("First byte, median by source",
                      (quantile(0.5, "s3proxy_http_first_byte_seconds", "source"), "{{source}}"), unit="s"),
                graph("First byte, p99 by source",
                      (quantile(0.99, "s3proxy_http_first_byte_seconds", "source"), "{{source}}"), unit="s"),
                graph("Whole answer", *quantiles("s3proxy_http_request_duration_seconds"), unit="s"),
                heat("First byte", "s3proxy_http_first_byte_seconds", width=12),
                heat("Whole answer", "s3proxy_http_request_duration_seconds", width=12),
            ),
        ),
        (
            "What the cache is worth",
            (
                graph("Hit rates", (HIT_RATE, "requests"),
                      ('avg(s3proxy_cache_byte_hit_rate_ratio{F,window="5m"})', "bytes"),
                      ('avg(s3proxy_ram_cache_hit_rate_ratio{F,window="5m"})', "RAM"), unit="percentunit"),
                graph("Saved", (rate("s3proxy_s3_saved_bytes_total"), "bytes"), unit="Bps"),
                graph("Saved requests", (rate("s3proxy_s3_requests_saved_total", "operation"), "{{operation}}"),
                      unit="reqps"),
                graph("Past the cache", (rate("s3proxy_cache_bypass_total", "reason"), "{{reason}}"), unit="reqps"),
                graph("Revalidations",
                      (rate("s3proxy_cache_revalidations_total", "trigger, result"), "{{trigger}}: {{result}}"),
                      unit="reqps"),
                graph("Shared downloads", (rate("s3proxy_coalesce_saved_fetches_total"), "saved"),
                      (rate("s3proxy_coalesce_waits_total", "outcome"), "waited: {{outcome}}"), unit="reqps"),
                graph("Lookups", (rate("s3proxy_cache_lookups_total", "tier, result"), "{{tier}}: {{result}}"),
                      unit="ops"),
                graph("Writes", (rate("s3proxy_write_cache_puts_total", "result"), "{{result}}"),
                      (rate("s3proxy_write_cache_hits_total"), "read afterwards"), unit="ops"),
                graph("Pages", (rate("s3proxy_page_requests_total", "outcome"), "{{outcome}}"), unit="reqps"),
                graph("Bytes of reads in pages", (rate("s3proxy_page_bytes_total", "kind"), "{{kind}}"), unit="Bps"),
                graph("Reasons", (rate("s3proxy_http_request_reasons_total", "source, reason"),
                                  "{{source}}: {{reason}}"), unit="reqps"),
                graph("Reads of parts, and reads with gaps", (rate("s3proxy_cache_parts_total", "result"),
                                                              "part: {{result}}"),
                      (rate("s3proxy_cache_range_gaps_total"), "gap"), unit="reqps"),
                graph("Waiting for another download", *quantiles("s3proxy_coalesce_wait_seconds"), unit="s"),
                graph("Downloads that others may join",
                      ("sum by (role) (s3proxy_coalesce_in_flight{F})", "{{role}}"),
                      (rate("s3proxy_coalesce_fetches_total", "result"), "{{result}} per second")),
                graph("Uploads that were kept, size", *quantiles("s3proxy_write_cache_put_size_bytes"), unit="bytes"),
            ),
        ),
        (
            "Capacity",
            (
                graph("Disk", ('max by (job) (s3proxy_cache_size_bytes{F,tier="disk"})', "in use"),
                      ('max by (job) (s3proxy_cache_limit_bytes{F,tier="disk"})', "limit"), unit="bytes"),
                graph("Memory", ('sum by (instance) (s3proxy_cache_size_bytes{F,tier="ram"})', "{{instance}}"),
                      ('sum by (instance) (s3proxy_cache_limit_bytes{F,tier="ram"})', "{{instance}}: limit"),
                      unit="bytes"),
                graph("Copies in memory", (rate("s3proxy_page_promotions_total", "result"), "{{result}}"),
                      ("sum(s3proxy_ram_cache_pieces{F})", "copies")),
                graph("Files that can be made", ("min by (volume) (s3proxy_volume_free_inodes{F})", "{{volume}}")),
                graph("Free on the volume", ("min by (volume) (s3proxy_volume_free_bytes{F})", "{{volume}}"),
                      unit="bytes"),
                graph("Days until the volume is full",
                      ("min by (volume) (s3proxy_volume_free_bytes{F}) / (86400 * clamp_min(-min by (volume) "
                       "(deriv(s3proxy_volume_free_bytes{F}[6h])), 1))", "{{volume}}"),
                      unit="d", text="At the speed of the last six hours. A full cache stays as full as it is."),
                graph("Evicted", (rate("s3proxy_cache_evicted_bytes_total", "tier"), "{{tier}}"), unit="Bps"),
                graph("Evictions", (rate("s3proxy_cache_evictions_total", "tier, reason"), "{{tier}}: {{reason}}"),
                      (quantile(0.99, "s3proxy_eviction_duration_seconds"), "p99 of a run, seconds")),
                graph("Kept", (rate("s3proxy_cache_fill_bytes_total", "origin"), "{{origin}}"), unit="Bps"),
                graph("Objects", ("max(s3proxy_cache_objects{F})", "objects"),
                      ("max(s3proxy_cache_ranges{F})", "files"),
                      ("sum(s3proxy_cache_metadata_entries{F})", "descriptions in memory")),
                graph("Attempts to keep a body", (rate("s3proxy_cache_fills_total", "result"), "{{result}}"),
                      unit="ops"),
            ),
        ),
    ),
)  # fmt: skip

UPSTREAM = Dashboard(
    "s3proxy-upstream",
    "S3 Proxy: the way to S3",
    (
        (
            "Requests",
            (
                graph("Answers by status", (rate("s3proxy_upstream_requests_total", "code"), "{{code}}"),
                      unit="reqps", stack=True),
                graph("Answers by operation",
                      (rate("s3proxy_upstream_requests_total", "operation_group"), "{{operation_group}}"),
                      unit="reqps", stack=True),
                graph("Bytes", (rate("s3proxy_upstream_bytes_total", "direction"), "{{direction}}"), unit="Bps"),
                graph("First byte", *quantiles("s3proxy_upstream_first_byte_seconds"), unit="s"),
                graph("Whole answer", *quantiles("s3proxy_upstream_request_duration_seconds"), unit="s"),
                graph("At S3, and waiting for a connection", ("sum(s3proxy_upstream_in_flight{F})", "at S3"),
                      ("sum(s3proxy_upstream_requests_waiting{F})", "waiting"),
                      (rate("s3proxy_upstream_waits_refused_total"), "refused per second")),
            ),
        ),
        (
            "Faults",
            (
                graph("Errors", (rate("s3proxy_upstream_errors_total", "kind"), "{{kind}}"), unit="reqps"),
                graph("Sent again", (rate("s3proxy_upstream_retries_total", "reason"), "{{reason}}"), unit="reqps"),
                graph("Stalls", (rate("s3proxy_stalls_total", "side"), "{{side}}"), unit="ops"),
                graph("Second requests", (rate("s3proxy_hedges_total", "outcome"), "{{outcome}}"), unit="reqps"),
                graph("Names", (rate("s3proxy_dns_refreshes_total", "result"), "{{result}}"), unit="ops"),
                graph("Probes of excluded addresses",
                      (rate("s3proxy_upstream_ip_probes_total", "result"), "{{result}}"), unit="ops"),
            ),
        ),
        (
            "Connections and addresses",
            (
                graph("Connections", ("sum by (endpoint, state) (s3proxy_upstream_connections{F})",
                                      "{{endpoint}} {{state}}")),
                graph("Share of requests on a kept connection",
                      (f'{rate("s3proxy_upstream_connections_reused_total", "endpoint")} / ('
                       f'{rate("s3proxy_upstream_connections_reused_total", "endpoint")} + '
                       f'{rate("s3proxy_upstream_connections_opened_total", "endpoint")})', "{{endpoint}}"),
                      unit="percentunit"),
                graph("Closed", (rate("s3proxy_upstream_connections_closed_total", "reason"), "{{reason}}"),
                      unit="cps"),
                graph("Steps to a connection, p99",
                      (quantile(0.99, "s3proxy_upstream_connect_seconds", "phase"), "{{phase}}"), unit="s"),
                graph("Earlier TLS sessions taken up", (rate("s3proxy_upstream_tls_resumptions_total"), "resumed"),
                      unit="cps"),
                graph("Addresses", ("sum by (endpoint, state) (s3proxy_upstream_ips{F})", "{{endpoint}} {{state}}")),
                graph("Exclusions", (rate("s3proxy_upstream_ip_exclusions_total", "endpoint"), "{{endpoint}}"),
                      unit="ops"),
                Panel("Excluded now", (("s3proxy_upstream_ip_up{F} == 0", "{{instance}} {{endpoint}} {{ip}}"),),
                      kind="table", width=16),
            ),
        ),
    ),
)  # fmt: skip

CLUSTER = Dashboard(
    "s3proxy-cluster",
    "S3 Proxy: instances and the shared directory",
    (
        (
            "Instances",
            (
                graph("Instances on the directory", ("max by (state) (s3proxy_cluster_instances{F})", "{{state}}")),
                Panel("Versions", (("count by (version, python, twisted) (s3proxy_build_info{F})",
                                    "{{version}}, Python {{python}}, Twisted {{twisted}}"),), kind="table"),
                Panel("Names", (("s3proxy_instance_info{F}", "{{hostname}} {{instance_id}} {{mode}}"),),
                      kind="table"),
                graph("Component health", ("s3proxy_health_component_status{F}", "{{instance}} {{component}}"),
                      width=16, text="1 healthy, 0.5 degraded, 0 unhealthy"),
                graph("Running for", ("time() - s3proxy_start_time_seconds{F}", "{{instance}}"), unit="s"),
            ),
        ),
        (
            "Agreement",
            (
                graph("Rights to store a version",
                      (rate("s3proxy_lock_acquisitions_total", "lock, result"), "{{lock}}: {{result}}"), unit="ops"),
                graph("Rights whose owner was gone",
                      (rate("s3proxy_lock_stale_total", "lock, action"), "{{lock}}: {{action}}"), unit="ops"),
                graph("Made invalid", (rate("s3proxy_cache_invalidations_total", "reason"), "{{reason}}"),
                      unit="ops"),
                graph("Purged by operators", ("sum by (scope, result) (increase(s3proxy_cache_purges_total{F}[5m]))",
                                              "{{scope}}: {{result}}")),
                graph("Rules in force", ("max by (instance) (s3proxy_rules_loaded{F})", "{{instance}}")),
                graph("Rules: file can't be used", ("max by (instance) (s3proxy_rules_on_fallback{F})",
                                                    "{{instance}}")),
            ),
        ),
        (
            "State of the directory",
            (
                graph("Faults", (rate("s3proxy_cache_errors_total", "kind"), "{{kind}}"), unit="ops"),
                graph("Repairs", (rate("s3proxy_cache_repairs_total", "kind"), "{{kind}}"), unit="ops"),
                graph("Storage calls, p99",
                      (quantile(0.99, "s3proxy_cache_operation_duration_seconds", "op"), "{{op}}"), unit="s"),
                graph("Eviction runs", ("sum by (result) (increase(s3proxy_eviction_runs_total{F}[5m]))",
                                        "{{result}}")),
                graph("Since the last eviction", ("time() - (s3proxy_eviction_last_run_timestamp_seconds{F} > 0)",
                                                  "{{instance}}"), unit="s"),
                graph("Compared with checksums", (rate("s3proxy_scrub_bytes_total"), "bytes"), unit="Bps"),
                graph("Found damaged by that", ("sum by (instance) (increase(s3proxy_scrub_damaged_total{F}[1h]))",
                                                "{{instance}}"), text="Files, within an hour."),
                graph("Accounts were wrong by",
                      ("max by (instance) (abs(s3proxy_size_drift_bytes{F}))", "{{instance}}"),
                      unit="bytes", text="At the last count."),
                graph("Multipart uploads", ("sum(s3proxy_multipart_uploads_in_progress{F})", "in progress"),
                      (rate("s3proxy_multipart_uploads_evicted_total"), "given up per second")),
            ),
        ),
    ),
)  # fmt: skip

_BUCKET = 'bucket=~"$bucket"'
BUCKETS = Dashboard(
    "s3proxy-buckets",
    "S3 Proxy: buckets",
    (
        (
            "Buckets",
            (
                graph("Requests, top 10",
                      (f'topk(10, {rate("s3proxy_bucket_requests_total", "bucket", _BUCKET)})', "{{bucket}}"),
                      unit="reqps"),
                graph("Sent to clients, top 10",
                      (f'topk(10, {rate("s3proxy_bucket_sent_bytes_total", "bucket", _BUCKET)})', "{{bucket}}"),
                      unit="Bps"),
                graph("Saved, top 10",
                      (f'topk(10, {rate("s3proxy_bucket_saved_bytes_total", "bucket", _BUCKET)})', "{{bucket}}"),
                      unit="Bps"),
                graph("Share of bytes from the cache",
                      (f'{rate("s3proxy_bucket_saved_bytes_total", "bucket", _BUCKET)} / '
                       f'{rate("s3proxy_bucket_sent_bytes_total", "bucket", _BUCKET)}', "{{bucket}}"),
                      unit="percentunit"),
                graph("Received from clients",
                      (f'topk(10, {rate("s3proxy_bucket_received_bytes_total", "bucket", _BUCKET)})', "{{bucket}}"),
                      unit="Bps"),
                graph("Operations", (rate("s3proxy_bucket_requests_total", "operation", _BUCKET), "{{operation}}"),
                      unit="reqps"),
                graph("Prefixes", (rate("s3proxy_bucket_sent_bytes_total", "bucket, prefix",
                                        _BUCKET + ',prefix!=""'), "{{bucket}}/{{prefix}}"), unit="Bps"),
                stat("More buckets than series", "max(s3proxy_bucket_overflow{F})", height=8,
                     text="1: what is beyond metrics.per_bucket.max_series is counted as __other__"),
                graph("Requests by rule", (rate("s3proxy_rule_requests_total", "rule, result"),
                                           "rule {{rule}}: {{result}}"), unit="reqps", width=12),
            ),
        ),
    ),
    buckets=True,
)  # fmt: skip

RUNTIME = Dashboard(
    "s3proxy-runtime",
    "S3 Proxy: the process",
    (
        (
            "Process",
            (
                graph("Processor", ("rate(process_cpu_seconds_total{F}[$__rate_interval])", "{{instance}}"),
                      unit="percentunit"),
                graph("Resident memory", ("process_resident_memory_bytes{F}", "{{instance}}"), unit="bytes"),
                graph("File descriptors", ("process_open_fds{F}", "{{instance}}"),
                      ("process_max_fds{F}", "{{instance}}: limit")),
                heat("Event loop: how late", "s3proxy_reactor_lag_seconds", width=12),
                graph("Event loop: how late, p99", (quantile(0.99, "s3proxy_reactor_lag_seconds", "instance"),
                                                    "{{instance}}"), unit="s", width=12),
                graph("Threads", ("sum by (pool, state) (s3proxy_threadpool_threads{F})", "{{pool}} {{state}}"),
                      ("sum by (pool) (s3proxy_threadpool_queue_length{F})", "{{pool}} queue")),
                graph("Waiting for a thread, p99",
                      (quantile(0.99, "s3proxy_threadpool_wait_seconds", "pool"), "{{pool}}"), unit="s"),
                graph("Bodies in memory", ("sum(s3proxy_buffer_reserved_bytes{F})", "reserved"),
                      ("sum(s3proxy_buffer_limit_bytes{F})", "limit"),
                      (rate("s3proxy_buffer_aborts_total"), "refused per second"), unit="bytes"),
                graph("Permits: how long they are held",
                      *quantiles("s3proxy_request_permit_hold_seconds"), unit="s"),
            ),
        ),
        (
            "Logs and metrics",
            (
                graph("Access log", (rate("s3proxy_access_log_records_total", "result"), "{{result}}"),
                      ("sum(s3proxy_access_log_buffer_records{F})", "waiting")),
                graph("Application log", (rate("s3proxy_log_messages_total", "level"), "{{level}}"),
                      (rate("s3proxy_log_messages_lost_total"), "lost"), unit="ops"),
                graph("Logs that can't be written", (rate("s3proxy_log_write_errors_total", "log"), "{{log}}"),
                      unit="ops"),
                graph("Time of a reading", ("max by (collector) (s3proxy_scrape_duration_seconds{F})",
                                            "{{collector}}"), unit="s"),
                graph("Readings that failed", (rate("s3proxy_scrape_errors_total", "collector"), "{{collector}}"),
                      unit="ops"),
                graph("OTLP exports", (rate("s3proxy_otlp_exports_total", "result"), "{{result}}"), unit="ops"),
            ),
        ),
    ),
)  # fmt: skip

DASHBOARDS = (OVERVIEW, UPSTREAM, CLUSTER, BUCKETS, RUNTIME)
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def model(dashboard: Dashboard) -> "dict[str, Any]":
    """The JSON model of a dashboard."""
    return {
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["s3proxy"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["s3proxy"], "title": "S3 Proxy", "asDropdown": True,
                   "includeVars": True, "keepTime": True}],
        "annotations": {"list": [
            _annotation("Restarts", "changes(s3proxy_start_time_seconds{F}[1m]) > 0", "orange"),
            _annotation("Rules read again", "increase(s3proxy_rules_reloads_total{F}[1m]) > 0", "blue"),
            _annotation("Purges", "increase(s3proxy_cache_purges_total{F}[1m]) > 0", "purple"),
        ]},
        "templating": {"list": list(_variables(dashboard))},
        "panels": list(_panels(dashboard)),
    }  # fmt: skip


def _expression(text: str) -> str:
    return text.replace("{F", "{" + FILTERS)


def _annotation(name: str, expression: str, color: str) -> "dict[str, Any]":
    return {
        "name": name, "datasource": SOURCE, "enable": True, "iconColor": color, "expr": _expression(expression),
        "step": "60s", "titleFormat": name, "textFormat": "{{instance}}",
    }  # fmt: skip


def _variables(dashboard: Dashboard) -> "Iterator[dict[str, Any]]":
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    choices = [
        ("job", "Job", "label_values(s3proxy_build_info, job)"),
        ("instance", "Instance", 'label_values(s3proxy_build_info{job=~"$job"}, instance)'),
    ]
    if dashboard.buckets:
        choices.append(("bucket", "Bucket", f"label_values(s3proxy_bucket_requests_total{{{FILTERS}}}, bucket)"))
    for name, label, query in choices:
        yield {
            "name": name, "label": label, "type": "query", "datasource": SOURCE, "query": query, "definition": query,
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }  # fmt: skip


def _panels(dashboard: Dashboard) -> "Iterator[dict[str, Any]]":
    number, top = 0, 0
    for title, panels in dashboard.rows:
        number += 1
        yield {
            "id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        }  # fmt: skip
        top += 1
        left = height = 0
        for panel in panels:
            if left + panel.width > WIDTH:
                left, top, height = 0, top + height, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, number: int, place: "dict[str, int]") -> "dict[str, Any]":
    table, heatmap = panel.kind == "table", panel.kind == "heatmap"
    found: dict[str, Any] = {
        "id": number, "type": panel.kind, "title": panel.title, "datasource": SOURCE, "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + at), "datasource": SOURCE, "expr": _expression(expression),
                "legendFormat": legend or "__auto", "instant": table or panel.kind == "stat",
                "range": not (table or panel.kind == "stat"),
                "format": "table" if table else "heatmap" if heatmap else "time_series",
            }
            for at, (expression, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
    }  # fmt: skip
    if panel.text:
        found["description"] = panel.text
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never"}
        if panel.stack:
            custom["stacking"] = {"mode": "normal", "group": "A"}
            custom["fillOpacity"] = 40
        found["fieldConfig"]["defaults"] |= {"custom": custom, "min": 0}
        found["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind == "stat":
        found["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "none"}
    elif heatmap:
        found["options"] = {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"scheme": "Blues"}}
    return found


def rendered(dashboard: Dashboard) -> str:
    """What its file holds."""
    return json.dumps(model(dashboard), indent=1) + "\n"


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    check = parser.parse_args().check
    differing = 0
    for dashboard in DASHBOARDS:
        path = HERE / f"{dashboard.name}.json"
        text = rendered(dashboard)
        if not check:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            differing += 1
            print(f"{path} differs; run: python etc/grafana/build.py", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
