#!/usr/bin/env python3
"""The Grafana dashboards, from the list of their panels: `dashboards.py FOLDER` writes one JSON file each.

Enters: nothing but this file. Leaves: dashboards for Grafana 9 and later, with the Prometheus data source and the box as
variables. Every expression gives something on a box that has answered a call; a test asks a real Prometheus.
"""

import json
import pathlib
import sys

BOX = '{instance=~"$instance"}'


def rate(metric, labels="", by=""):
    """Per second, of each box; 0 where nothing has had one of these labels yet."""
    more = f', {labels}' if labels else ""
    grouped = f"instance, {by}" if by else "instance"
    per_second = f'sum by ({grouped}) (rate({metric}{{instance=~"$instance"{more}}}[$__rate_interval]))'
    return per_second + (" or on() vector(0)" if by else "")


def quantile(share, metric, labels="", by=""):
    more = f', {labels}' if labels else ""
    grouped = f"instance, {by}, le" if by else "instance, le"
    inner = f'rate({metric}_bucket{{instance=~"$instance"{more}}}[$__rate_interval])'
    return f"histogram_quantile({share}, sum by ({grouped}) ({inner}))"


ANSWER = "callbox_voice_to_voice_seconds"
STAGE = "callbox_stage_seconds"
LATE = "callbox_media_send_lateness_seconds"
COMMIT = "callbox_storage_commit_seconds"

# Title of the dashboard: what it is for, and rows of panels. A panel: kind, title, unit, {legend: expression}.
DASHBOARDS = {
    "overview": ("Callbox: overview", [
        [("stat", "Answers calls", "bool_yes_no", {"{{instance}} {{engine}}": f"callbox_engine_up{BOX}"}),
         ("stat", "Calls up", "none", {"{{instance}}": f"callbox_calls_active{BOX}"}),
         ("stat", "Calls in the last hour", "none", {"{{instance}}": f"increase(callbox_calls_total{BOX}[1h])"}),
         ("stat", "Answer after, 95 of 100", "s", {"{{instance}}": quantile(0.95, ANSWER)}),
         ("stat", "Up for", "s", {"{{instance}}": f"callbox_process_uptime_seconds{BOX}"}),
         ("name", "Version", "none", {"{{version}}": f"callbox_build_info{BOX}"})],
        [("timeseries", "Calls up", "none", {"{{instance}}": f"callbox_calls_active{BOX}"}),
         ("timeseries", "Calls answered per second", "cps", {"{{instance}}": rate("callbox_calls_total")})],
        [("timeseries", "Calls refused per second", "cps", {
            "{{reason}}": rate("callbox_calls_refused_total", by="reason"),
            "{{reason}} (signalling)": rate("callbox_sip_refused_total", by="reason")}),
         ("timeseries", "Trunks: registered, hosts that answer", "bool_yes_no", {
            "{{trunk}} registered": f"callbox_trunk_registered{BOX}",
            "{{trunk}} {{host}}": f"callbox_trunk_host_up{BOX}"})],
    ]),
    "calls": ("Callbox: calls and latency", [
        [("timeseries", "From the caller's last word to the agent's first", "s", {
            "half": quantile(0.5, ANSWER), "95 of 100": quantile(0.95, ANSWER), "99 of 100": quantile(0.99, ANSWER)}),
         ("timeseries", "Answers per second", "ops", {"{{instance}}": rate(f"{ANSWER}_count")})],
        [("timeseries", "Time of each stage, half", "s", {"{{stage}}": quantile(0.5, STAGE, by="stage")}),
         ("timeseries", "Time of each stage, 95 of 100", "s", {"{{stage}}": quantile(0.95, STAGE, by="stage")})],
        [("heatmap", "Answers by how long they took", "s", {
            "{{le}}": f'sum by (le) (increase({ANSWER}_bucket{BOX}[$__rate_interval]))'})],
    ]),
    "engine": ("Callbox: engine and machine", [
        [("timeseries", "Engine ready", "bool_yes_no", {"{{instance}} {{engine}}": f"callbox_engine_up{BOX}"}),
         ("timeseries", "Engine lost, in an hour", "none", {
            "{{engine}}": f"increase(callbox_engine_restarts_total{BOX}[1h]) or on() vector(0)"})],
        [("timeseries", "Ears: time for an utterance", "s", {
            "half": quantile(0.5, STAGE, 'stage="stt"'), "95 of 100": quantile(0.95, STAGE, 'stage="stt"')}),
         ("timeseries", "Mind: time to the first clause", "s", {
            "half": quantile(0.5, STAGE, 'stage="llm"'), "95 of 100": quantile(0.95, STAGE, 'stage="llm"')}),
         ("timeseries", "Voice: time to the first sound", "s", {
            "half": quantile(0.5, STAGE, 'stage="tts"'), "95 of 100": quantile(0.95, STAGE, 'stage="tts"')})],
        [("timeseries", "Processor time of callboxd, cores", "none", {
            "{{instance}}": rate("callbox_process_cpu_seconds_total")}),
         ("timeseries", "Memory of callboxd", "bytes", {"{{instance}}": f"callbox_process_resident_memory_bytes{BOX}"}),
         ("timeseries", "Descriptors and threads", "none", {
            "descriptors": f"callbox_process_open_fds{BOX}", "threads": f"callbox_process_threads{BOX}"})],
    ]),
    "lines": ("Callbox: signalling and audio", [
        [("timeseries", "Dialogs, transactions, connections", "none", {
            "dialogs": f"callbox_sip_dialogs{BOX}", "transactions": f"callbox_sip_transactions{BOX}",
            "connections": f"callbox_sip_connections{BOX}"}),
         ("timeseries", "Calls of each trunk", "none", {"{{trunk}}": f"callbox_trunk_calls{BOX}"}),
         ("timeseries", "Messages of trunks refused per second", "ops", {
            "{{trunk}} {{reason}}": rate("callbox_trunk_refused_total", by="trunk, reason")})],
        [("timeseries", "Unwanted messages per second", "ops", {
            "dropped unread": rate("callbox_sip_dropped_total"), "malformed": rate("callbox_sip_malformed_total"),
            "{{reason}}": rate("callbox_sip_offences_total", by="reason"),
            "TLS handshakes": rate("callbox_sip_tls_handshakes_failed_total")}),
         ("stat", "Certificate ends in", "s", {
            "{{instance}}": f"callbox_sip_certificate_expiry_timestamp_seconds{BOX} - time()"})],
        [("timeseries", "Opinion score of callers' lines (E-model)", "none", {
            "half": quantile(0.5, "callbox_rtp_mos"), "worst 5 of 100": quantile(0.05, "callbox_rtp_mos")}),
         ("timeseries", "Packets lost, 95 of 100 calls lose less", "percentunit", {
            "from callers": quantile(0.95, "callbox_rtp_loss_ratio"),
            "to callers": quantile(0.95, "callbox_rtp_far_loss_ratio")}),
         ("timeseries", "Jitter, round trip: 95 of 100 calls have less", "s", {
            "jitter": quantile(0.95, "callbox_rtp_jitter_seconds"),
            "round trip": quantile(0.95, "callbox_rtp_round_trip_seconds")}),
         ("timeseries", "Frames per second", "ops", {
            "invented": rate("callbox_rtp_frames_concealed_total"), "late": rate("callbox_rtp_packets_late_total"),
            "our own voice": rate("callbox_rtp_frames_echo_total"), "keys": rate("callbox_rtp_keys_total")})],
        [("timeseries", "RTP packets per second", "pps", {
            "received": rate("callbox_media_packets_received_total"), "sent": rate("callbox_media_packets_sent_total"),
            "not sent": rate("callbox_media_send_errors_total")}),
         ("timeseries", "Packets sent late by", "s", {"half": quantile(0.5, LATE), "99 of 100": quantile(0.99, LATE)}),
         ("timeseries", "RTP ports", "none", {
            "in use": f"callbox_media_ports_used{BOX}", "configured": f"callbox_media_ports{BOX}",
            "calls with audio": f"callbox_media_sessions{BOX}"}),
         ("timeseries", "Times the machine stood still, in an hour", "none", {
            "{{instance}}": f"increase(callbox_media_stalls_total{BOX}[1h])"})],
    ]),
    "storage": ("Callbox: database and errors", [
        [("timeseries", "Records committed per second", "ops", {"{{instance}}": rate("callbox_storage_records_total")}),
         ("timeseries", "Time of a commit", "s", {"half": quantile(0.5, COMMIT), "99 of 100": quantile(0.99, COMMIT)})],
        [("timeseries", "Records lost per second", "ops", {
            "{{reason}}": rate("callbox_storage_records_dropped_total", by="reason")}),
         ("timeseries", "Log lines lost per second", "ops", {"{{instance}}": rate("callbox_log_lines_dropped_total")}),
         ("stat", "Bugs that ended a task", "none", {"{{instance}}": f"callbox_panics_total{BOX}"})],
    ]),
}

SOURCE = {"type": "prometheus", "uid": "${source}"}
# Of each kind: what Grafana calls it, its height, its options, whether it shows only what is now. A name is a label's value.
KINDS = {
    "stat": ("stat", 5, {}, True),
    "name": ("stat", 5, {"textMode": "name"}, True),
    "timeseries": ("timeseries", 8, {}, False),
    "heatmap": ("heatmap", 9, {}, False),
}


def panel(number, place, kind, title, unit, expressions):
    plugin, _, options, now = KINDS[kind]
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend,
         "instant": now, "format": "heatmap" if kind == "heatmap" else "time_series"}
        for at, (legend, expression) in enumerate(expressions.items())
    ]
    return {"id": number, "type": plugin, "options": options, "title": title, "datasource": SOURCE, "gridPos": place,
            "targets": targets, "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []}}


def dashboard(name, title, rows):
    panels, top = [], 0
    for row in rows:
        width, height = 24 // len(row), max(KINDS[kind][1] for kind, *_ in row)
        for at, (kind, heading, unit, expressions) in enumerate(row):
            place = {"x": at * width, "y": top, "w": width, "h": height}
            panels.append(panel(len(panels) + 1, place, kind, heading, unit, expressions))
        top += height
    label = {"type": "query", "name": "instance", "label": "Box", "datasource": SOURCE, "refresh": 2, "multi": True,
             "includeAll": True, "allValue": ".*", "query": "label_values(callbox_build_info, instance)",
             "current": {"text": "All", "value": "$__all"}}
    source = {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus"}
    return {"uid": f"callbox-{name}", "title": title, "tags": ["callbox"], "schemaVersion": 37, "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"}, "templating": {"list": [source, label]}, "panels": panels,
            "links": [{"type": "dashboards", "tags": ["callbox"], "title": "Callbox", "asDropdown": True}]}


def main():
    if len(sys.argv) != 2:
        sys.exit("dashboards.py: name the folder that the dashboards are to be written to")
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(name, title, rows), indent=1) + "\n"
        (folder / f"callbox-{name}.json").write_text(text)


if __name__ == "__main__":
    main()
