"""What stands behind the servers that are measured: an nginx with static files, and the origin with a scripted pace."""

import datetime
import hashlib
import json
import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.clients import fetch
from bench.paced_origin import ACCOUNT_PATH, Account, Script
from bench.process import ROOT, Server, free_port
from bench.requests import HOST

__all__ = ["SIZES", "Origin", "account_of", "nginx", "paced_origin", "static_origin"]

SIZES: Mapping[str, int] = {"k1": 1 << 10, "k64": 64 << 10, "m1": 1 << 20, "m64": 64 << 20}
"""The objects of the static origin."""
PART_BYTES = 8 << 20
"""Larger objects have the ETag of an upload in parts of this size."""


@attrs.frozen
class Origin:
    """Where the servers that are measured fetch.

    :ivar plain: port for HTTP
    :ivar tls: port for HTTPS, or None
    :ivar certificate: PEM file with the certificate to trust there
    """

    server: Server
    plain: int
    tls: int | None = None
    certificate: Path | None = None


def nginx(name: str, port: int, folder: Path, http: str) -> Server:
    """nginx with one worker and these directives. Without tcp_nopush: with it, a hit of 64 KiB can take 40 ms."""
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    (home / "nginx.conf").write_text(textwrap.dedent("""\
            daemon off;
            worker_processes 1;
            pid {home}/nginx.pid;
            error_log {home}/error.log warn;
            events {{ worker_connections 4096; }}
            http {{
              client_body_temp_path {home}/body;
              proxy_temp_path {home}/temp;
              fastcgi_temp_path {home}/fastcgi;
              uwsgi_temp_path {home}/uwsgi;
              scgi_temp_path {home}/scgi;
              sendfile on;
              tcp_nodelay on;
              keepalive_requests 1000000000;
              keepalive_time 24h;
              default_type binary/octet-stream;
              {http}
            }}
            """).format(home=home, http=http))
    if os.geteuid() == 0:
        # Workers give up root; what they write must be theirs.
        for path in (home, folder):
            os.chmod(path, 0o777)
    command = ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    return Server(name, port, command, folder=home)


def static_origin(folder: Path) -> Origin:
    """Static files of each size with ETags as S3 has them, over HTTP and TLS. ``/bucket/u/<anything>/<size>`` is
    another key for the file."""
    tags = _make_objects(folder / "objects" / "bucket")
    certificate, key = _write_certificate(folder)
    plain, tls = free_port(), free_port()
    server = nginx(
        "origin",
        tls,
        folder,
        f"""
        access_log off;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_session_cache shared:s:10m;
        etag off;
        map $uri $s3_etag {{ {" ".join(f"~/{name}$ '{tag}';" for name, tag in tags.items())} }}
        add_header ETag $s3_etag;
        server {{
          listen 127.0.0.1:{tls} ssl backlog=4096;
          listen 127.0.0.1:{plain} backlog=4096;
          root {folder}/objects;
          rewrite ^/bucket/u/[^/]+/(.*)$ /bucket/$1 last;
        }}
        """,
    )
    return Origin(server, plain, tls, certificate)


def paced_origin(folder: Path, script: Script) -> Origin:
    """The origin with a scripted pace, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "bench.paced_origin", "--port", str(port)]
    for name, value in attrs.asdict(script).items():
        command += [f"--{name}", str(value)]
    server = Server("paced-origin", port, command, folder=folder, environment={"PYTHONPATH": str(ROOT)})
    return Origin(server, port)


def account_of(origin: Origin) -> Account:
    """What the paced origin has sent so far."""
    _, document = fetch(origin.plain, f"GET {ACCOUNT_PATH} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    return Account(**json.loads(document))


def _make_objects(bucket: Path) -> dict[str, str]:
    """One file of each size, of bytes that don't repeat within a MiB; returns their ETags."""
    bucket.mkdir(parents=True)
    block = os.urandom(1 << 20)
    tags = {}
    for name, size in SIZES.items():
        data = (block * (-(-size // len(block))))[:size]
        (bucket / name).write_bytes(data)
        tags[name] = f'"{_s3_etag(data)}"'
    return tags


def _s3_etag(data: bytes) -> str:
    """The MD5 of an object, or of the MD5s of its parts; clients upload large objects in parts."""
    if len(data) <= PART_BYTES:
        return hashlib.md5(data).hexdigest()
    digests = [hashlib.md5(data[start : start + PART_BYTES]).digest() for start in range(0, len(data), PART_BYTES)]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


def _write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for the origin, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "origin.pem", folder / "origin.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path
