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


def rate_or_none(metric):
    """Per second, of each box; 0 where there is no such thing, as the process of a scripted engine."""
    return rate(metric) + " or on() vector(0)"


ANSWER = "callbox_voice_to_voice_seconds"
STAGE = "callbox_stage_seconds"
LATE = "callbox_media_send_lateness_seconds"
COMMIT = "callbox_storage_commit_seconds"

# Title of the dashboard: what it is for, and rows of panels. A panel: kind, title, unit, {legend: expression}.
DASHBOARDS = {
    "overview": ("Callbox: overview", [
        [("stat", "Answers calls", "bool_yes_no", {"{{instance}}": f"callbox_ready{BOX}"}),
         ("stat", "Calls up", "none", {"{{instance}}": f"callbox_calls_active{BOX}"}),
         ("stat", "Calls in the last hour", "none", {"{{instance}}": f"increase(callbox_calls_total{BOX}[1h])"}),
         ("stat", "Answer after, 95 of 100", "s", {"{{instance}}": quantile(0.95, ANSWER)}),
         ("stat", "Up for", "s", {"{{instance}}": f"callbox_process_uptime_seconds{BOX}"}),
         ("name", "Version", "none", {"{{version}}": f"callbox_build_info{BOX}"})],
        [("timeseries", "Calls up", "none", {
            "{{instance}}": f"callbox_calls_active{BOX}", "{{instance}}: as many may be": f"callbox_calls_limit{BOX}"}),
         ("timeseries", "Calls answered per second", "cps", {"{{instance}}": rate("callbox_calls_total")})],
        [("timeseries", "Calls refused per second", "cps", {
            "{{reason}}": rate("callbox_calls_refused_total", by="reason"),
            "{{reason}} (signalling)": rate("callbox_sip_refused_total", by="reason")}),
         ("timeseries", "Trunks: registered, hosts that answer", "bool_yes_no", {
            "{{trunk}} registered": f"callbox_trunk_registered{BOX}",
            "{{trunk}} {{host}}": f"callbox_trunk_host_up{BOX}"})],
        [("stat", "Draining", "bool_yes_no", {"{{instance}}": f"callbox_draining{BOX}"}),
         ("stat", "What runs is what the files say", "bool_yes_no", {
            "{{instance}}": f"callbox_config_last_reload_successful{BOX}"}),
         ("stat", "Configuration read, ago", "s", {
            "{{instance}}": f"time() - callbox_config_read_timestamp_seconds{BOX}"}),
         ("stat", "Least room on a disk", "percentunit", {"{{instance}}": f"min by (instance) (callbox:disk_free:ratio{BOX})"}),
         ("stat", "Backups kept", "none", {"{{instance}}": f"callbox_backups{BOX}"})],
    ]),
    "calls": ("Callbox: calls and latency", [
        [("timeseries", "From the caller's last word to the agent's first", "s", {
            "half": quantile(0.5, ANSWER), "95 of 100": quantile(0.95, ANSWER), "99 of 100": quantile(0.99, ANSWER)}),
         ("timeseries", "Answers per second", "ops", {"{{instance}}": rate(f"{ANSWER}_count")})],
        [("timeseries", "Time of each stage, half", "s", {"{{stage}}": quantile(0.5, STAGE, by="stage")}),
         ("timeseries", "Time of each stage, 95 of 100", "s", {"{{stage}}": quantile(0.95, STAGE, by="stage")})],
        [("heatmap", "Answers by how long they took", "s", {
            "{{le}}": f'sum by (le) (increase({ANSWER}_bucket{BOX}[$__rate_interval]))'})],
        [("timeseries", "From the INVITE to the 200, 95 of 100", "s", {
            "{{instance}}": quantile(0.95, "callbox_call_setup_seconds")}),
         ("timeseries", "How long calls last", "s", {
            "half": quantile(0.5, "callbox_call_duration_seconds"),
            "95 of 100": quantile(0.95, "callbox_call_duration_seconds")}),
         ("timeseries", "Calls over per second, by why", "cps", {
            "{{reason}}": rate("callbox_calls_ended_total", by="reason")})],
        [("timeseries", "Turns per second, by how they ended", "ops", {
            "{{outcome}}": rate("callbox_turns_total", by="outcome")}),
         ("timeseries", "Turns per second, by why the agent spoke", "ops", {
            "{{kind}}": rate("callbox_turns_total", by="kind")}),
         ("timeseries", "Answers per second, by who chose the words", "ops", {
            "{{source}}": rate("callbox_answers_total", by="source")})],
        [("timeseries", "Calls of ours per second, by what came of them", "cps", {
            "{{result}}": rate("callbox_calls_placed_total", by="result")}),
         ("timeseries", "Callers who came back from a transfer, per second", "cps", {
            "{{reason}}": rate("callbox_transfers_failed_total", by="reason")})],
    ]),
    "engine": ("Callbox: engine, GPUs and machine", [
        [("timeseries", "Engine ready", "bool_yes_no", {"{{instance}} {{engine}}": f"callbox_engine_up{BOX}"}),
         ("timeseries", "Engine lost, in an hour", "none", {
            "{{engine}}": f"increase(callbox_engine_restarts_total{BOX}[1h]) or on() vector(0)"})],
        [("timeseries", "Ears: time for an utterance", "s", {
            "half": quantile(0.5, STAGE, 'stage="stt"'), "95 of 100": quantile(0.95, STAGE, 'stage="stt"')}),
         ("timeseries", "Mind: time to the first clause", "s", {
            "half": quantile(0.5, STAGE, 'stage="llm"'), "95 of 100": quantile(0.95, STAGE, 'stage="llm"')}),
         ("timeseries", "Voice: time to the first sound", "s", {
            "half": quantile(0.5, STAGE, 'stage="tts"'), "95 of 100": quantile(0.95, STAGE, 'stage="tts"')})],
        [("timeseries", "Mind: time to the first token", "s", {
            "half": quantile(0.5, "callbox_llm_first_token_seconds"),
            "95 of 100": quantile(0.95, "callbox_llm_first_token_seconds"),
            "of it waiting for other calls, 95 of 100": quantile(0.95, "callbox_llm_queue_seconds")}),
         ("timeseries", "Tokens per second", "ops", {"{{kind}}": rate("callbox_llm_tokens_total", by="kind")}),
         ("timeseries", "Share of the time that a role computes for turns", "percentunit", {
            "{{role}}": rate("callbox_engine_compute_seconds_total", by="role")})],
        [("timeseries", "Work asked for per second", "ops", {"{{role}}": rate("callbox_engine_requests_total", by="role")}),
         ("timeseries", "Requests that wait for the engine", "none", {"{{instance}}": f"callbox_engine_queue_requests{BOX}"}),
         ("stat", "Wait for the engine, the last time", "s", {"{{engine}}": f"callbox_engine_start_seconds{BOX}"}),
         ("stat", "Model loaded in", "s", {
            "{{role}}": f"callbox_engine_load_seconds{BOX}", "{{role}} warm after": f"callbox_engine_warmup_seconds{BOX}"}),
         ("stat", "Models", "none", {"{{role}}: {{model}}": f"callbox_engine_model{BOX}"})],
        [("name", "Cards", "none", {"GPU {{gpu}}: {{name}}": f"callbox_gpu_info{BOX} or on() vector(0)"}),
         ("stat", "Nothing is wrong with them", "bool_yes_no", {"GPU {{gpu}}": f"callbox_gpu_healthy{BOX} or on() vector(0)"}),
         ("timeseries", "Memory of GPUs", "bytes", {
            "GPU {{gpu}}": f"callbox_gpu_memory_used_bytes{BOX} or on() vector(0)",
            "GPU {{gpu}}, in all": f"callbox_gpu_memory_bytes{BOX} or on() vector(0)"}),
         ("timeseries", "GPUs compute, share of the time", "percentunit", {
            "GPU {{gpu}}": f"callbox_gpu_utilization_ratio{BOX} or on() vector(0)"})],
        [("timeseries", "Temperature of GPUs", "celsius", {
            "GPU {{gpu}}": f"callbox_gpu_temperature_celsius{BOX} or on() vector(0)"}),
         ("timeseries", "GPUs take", "watt", {
            "GPU {{gpu}}": f"callbox_gpu_power_watts{BOX} or on() vector(0)",
            "GPU {{gpu}}, at most": f"callbox_gpu_power_limit_watts{BOX} or on() vector(0)"}),
         ("timeseries", "GPUs that are slowed down", "none", {"GPU {{gpu}}": f"callbox_gpu_slowed{BOX} or on() vector(0)"}),
         ("timeseries", "Critical errors of GPUs, in an hour", "none", {
            "GPU {{gpu}}, XID {{xid}}": f"increase(callbox_gpu_xid_total{BOX}[1h]) or on() vector(0)"}),
         ("stat", "Memory errors, processes", "none", {
            "GPU {{gpu}}, errors": f"callbox_gpu_ecc_errors{BOX} or on() vector(0)",
            "GPU {{gpu}}, processes": f"callbox_gpu_processes{BOX} or on() vector(0)"})],
        [("timeseries", "Processor time, cores", "none", {
            "callboxd": rate("callbox_process_cpu_seconds_total"),
            "engine {{engine}}": rate_or_none("callbox_engine_cpu_seconds_total")}),
         ("timeseries", "Memory", "bytes", {
            "callboxd": f"callbox_process_resident_memory_bytes{BOX}",
            "engine {{engine}}": f"callbox_engine_resident_memory_bytes{BOX} or on() vector(0)"}),
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
        [("timeseries", "Requests per second", "ops", {
            "{{method}} {{direction}}": rate("callbox_sip_requests_total", by="method, direction")}),
         ("timeseries", "Responses per second", "ops", {
            "{{class}} {{direction}}": rate("callbox_sip_responses_total", by="class, direction")}),
         ("timeseries", "Retransmissions per second", "ops", {
            "{{direction}}": rate("callbox_sip_retransmissions_total", by="direction")}),
         ("timeseries", "Hosts of trunks answer OPTIONS after", "s", {
            "{{trunk}} {{host}}": f"callbox_trunk_host_response_seconds{BOX}"}),
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
    "storage": ("Callbox: cache and storage", [
        [("timeseries", "Questions per second, by what was found", "ops", {
            "{{result}}": rate("callbox_cache_lookups_total", by="result")}),
         ("timeseries", "Alike, but not the same, per second", "ops", {
            "{{difference}}": rate("callbox_cache_guarded_total", by="difference")})],
        [("timeseries", "Time of a lookup", "s", {
            "half": quantile(0.5, "callbox_cache_lookup_seconds"), "99 of 100": quantile(0.99, "callbox_cache_lookup_seconds")}),
         ("timeseries", "Questions whose answer is known", "none", {"{{origin}}": f"callbox_cache_entries{BOX}"}),
         ("timeseries", "Changes per second", "ops", {
            "learned": rate("callbox_cache_learned_total"), "taken out": rate("callbox_cache_evicted_total"),
            "not written": rate("callbox_cache_changes_lost_total")})],
        [("stat", "Answers whose audio is ready", "none", {"{{instance}}": f"callbox_cache_clips{BOX}"}),
         ("stat", "Ready audio in memory", "bytes", {"{{instance}}": f"callbox_cache_clips_memory_bytes{BOX}"})],
        [("timeseries", "Records committed per second", "ops", {"{{instance}}": rate("callbox_storage_records_total")}),
         ("timeseries", "Time of a commit", "s", {"half": quantile(0.5, COMMIT), "99 of 100": quantile(0.99, COMMIT)}),
         ("timeseries", "Records that wait for the disk", "none", {"{{instance}}": f"callbox_storage_queue_records{BOX}"})],
        [("timeseries", "Room on the disks", "bytes", {
            "{{place}}": f"callbox_disk_free_bytes{BOX}", "{{place}}, in all": f"callbox_disk_size_bytes{BOX}"}),
         ("timeseries", "Databases", "bytes", {"{{file}}": f"callbox_storage_file_bytes{BOX}"}),
         ("stat", "Latest backup, ago", "s", {
            "{{instance}}": f"time() - (callbox_backup_timestamp_seconds{BOX} > 0) or on() vector(0)"}),
         ("stat", "Its size", "bytes", {"{{instance}}": f"callbox_backup_bytes{BOX}"}),
         ("stat", "Entries of the audit in a day", "none", {
            "{{instance}}": f"increase(callbox_audit_entries_total{BOX}[1d])"})],
        [("timeseries", "Calls that are recorded", "none", {"{{instance}}": f"callbox_recording_active{BOX}"}),
         ("timeseries", "Recordings, bytes per second", "Bps", {
            "{{instance}}": rate("callbox_recording_written_bytes_total")}),
         ("timeseries", "Frames of recordings per second", "ops", {"recorded": rate("callbox_recording_frames_total")}),
         ("timeseries", "Files of recordings removed, in an hour", "none", {
            "{{instance}}": f"increase(callbox_recording_removed_total{BOX}[1h])"})],
    ]),
    "errors": ("Callbox: errors", [
        [("timeseries", "Calls refused", "percentunit", {"{{instance}}": "callbox:refused:ratio10m or on() vector(0)"}),
         ("timeseries", "Turns that fail", "percentunit", {"{{instance}}": "callbox:failed:ratio10m or on() vector(0)"}),
         ("timeseries", "Engine lost, in an hour", "none", {
            "{{engine}}": f"increase(callbox_engine_restarts_total{BOX}[1h]) or on() vector(0)"}),
         ("stat", "Bugs that ended a task", "none", {"{{instance}}": f"callbox_panics_total{BOX}"})],
        [("timeseries", "Turns that failed per second, by role", "ops", {
            "{{role}}": rate("callbox_turn_failures_total", by="role"), "done again": rate("callbox_turn_retries_total")}),
         ("timeseries", "Work undone per second", "ops", {
            "{{role}} {{failure}}": rate("callbox_engine_failures_total", by="role, failure"),
            "no place": rate("callbox_engine_refused_total")}),
         ("timeseries", "Calls that ended badly, per second", "cps", {
            "{{reason}}": rate("callbox_calls_ended_total", 'reason=~"media_timeout|engine_lost|no_ack|timeout|crashes|lost.*"',
                               by="reason")})],
        [("timeseries", "Unwanted messages per second", "ops", {
            "dropped unread": rate("callbox_sip_dropped_total"), "malformed": rate("callbox_sip_malformed_total"),
            "{{reason}}": rate("callbox_sip_offences_total", by="reason"),
            "TLS handshakes": rate("callbox_sip_tls_handshakes_failed_total")}),
         ("timeseries", "HTTP requests per second, by status", "ops", {
            "{{status}}": rate("callbox_http_requests_total", by="status")}),
         ("timeseries", "HTTP requests that are not let in, per second", "ops", {
            "{{reason}}": rate("callbox_http_refused_total", by="reason"),
            "TLS handshakes": rate("callbox_http_tls_handshakes_failed_total"),
            "no place for a connection": rate("callbox_http_connections_refused_total")})],
        [("timeseries", "Time of an HTTP request", "s", {
            "half": quantile(0.5, "callbox_http_request_seconds"), "99 of 100": quantile(0.99, "callbox_http_request_seconds")}),
         ("timeseries", "HTTP connections, and streams of events", "none", {
            "{{listener}}": f"callbox_http_connections{BOX}", "streams": f"callbox_http_event_streams{BOX}"}),
         ("timeseries", "Reloads in an hour", "none", {"{{result}}": f"increase(callbox_config_reloads_total{BOX}[1h])"})],
        [("timeseries", "Records lost per second", "ops", {
            "{{reason}}": rate("callbox_storage_records_dropped_total", by="reason")}),
         ("timeseries", "Log lines and spans of traces lost per second", "ops", {
            "lines": rate("callbox_log_lines_dropped_total"),
            "spans: {{reason}}": rate("callbox_trace_spans_dropped_total", by="reason")}),
         ("timeseries", "Recordings", "none", {
            "failed, in an hour": f"increase(callbox_recording_failures_total{BOX}[1h])",
            "frames lost per second: {{reason}}": rate("callbox_recording_frames_lost_total", by="reason")})],
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
