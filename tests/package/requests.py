#!/usr/bin/env python3
"""A SIP peer that asks without a pause. Enters: seconds; leaves: one line, how many OPTIONS were sent to port 5060,
20 a second, how many were never answered, and the longest wait. An unanswered one is sent again after 0.5 s, 1 s, 2 s and
4 s, as a peer does (RFC 3261 section 17.1.2.2), and given up after 16 s (PATIENCE). Only the standard library.

    requests.py SECONDS [FROM TO [PATIENCE]]      addresses, otherwise 127.0.0.1; seconds, otherwise 16
"""

import re
import socket
import sys
import time

REQUEST = """OPTIONS sip:frontdesk@{to} SIP/2.0\r
Via: SIP/2.0/UDP {source}:{port};branch=z9hG4bK-{number};rport\r
From: <sip:peer@{source}>;tag=peer-{number}\r
To: <sip:frontdesk@{to}>\r
Call-ID: options-{number}@{source}\r
CSeq: 1 OPTIONS\r
Max-Forwards: 70\r
Content-Length: 0\r
\r
"""


def main():
    source, to = sys.argv[2:4] or ("127.0.0.1", "127.0.0.1")
    patience = float((sys.argv[4:5] or [16])[0])
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.bind((source, 0))
    line.settimeout(0.01)
    port = line.getsockname()[1]
    start, sent, waits = time.monotonic(), 0, []
    # number -> (first sent, next time, next wait)
    open_ones = {}

    def send(number):
        line.sendto(REQUEST.format(port=port, number=number, source=source, to=to).encode(), (to, 5060))

    while True:
        now = time.monotonic()
        asking = now < start + float(sys.argv[1])
        if asking and sent <= (now - start) * 20:
            open_ones[sent] = (now, now + 0.5, 1.0)
            send(sent)
            sent += 1
        for number, (first, again, wait) in list(open_ones.items()):
            if now >= again and wait <= 8:
                send(number)
                open_ones[number] = (first, now + wait, wait * 2)
        if not asking and (not open_ones or now - min(one[0] for one in open_ones.values()) > patience):
            break
        try:
            answer = line.recv(65535)
        except (TimeoutError, ConnectionRefusedError):
            continue
        found = re.search(rb"branch=z9hG4bK-(\d+)", answer)
        if found and answer.startswith(b"SIP/2.0 2") and int(found[1]) in open_ones:
            waits.append(time.monotonic() - open_ones.pop(int(found[1]))[0])
    print(f"{sent} sent, {len(open_ones)} unanswered, longest wait {max(waits, default=0):.2f} s")


main()
