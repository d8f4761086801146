"""Tests for :mod:`s3proxy.config.check`: memory, files, listeners."""

import datetime
import os
import sys
from importlib.abc import MetaPathFinder
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.check import check, check_files, effective_ram_cache_size, tight_limits
from s3proxy.config.model import Cache, Config, ConnectionPool, Metrics, Otlp, Server, Tls, UpstreamOverride
from s3proxy.config.problems import Report

GIB = 1 << 30


class RamCacheSize(SynchronousTestCase):
    """How much memory the RAM cache takes."""

    def test_enough(self) -> None:
        """A quarter of the memory holds it: the size is what was configured."""
        self.assertEqual(effective_ram_cache_size(Config(), 4 * GIB), (GIB, None))

    def test_cut(self) -> None:
        """On a smaller machine it is a quarter of the memory, and a warning says so."""
        size, notice = effective_ram_cache_size(Config(), 2 * GIB)
        self.assertEqual(size, GIB // 2)
        assert notice is not None
        self.assertEqual((notice.level, notice.text), (
            "warn", "cache.max_ram_cache_size: 1 GiB is more than a quarter of the machine's memory; using 512 MiB"))

    def test_off(self) -> None:
        """Off, of size 0, or with nothing that stays fresh: none, and no warning."""
        for cache in (Cache(ram_cache_enabled=False), Cache(max_ram_cache_size=0), Cache(get_ttl=0.0)):
            self.assertEqual(effective_ram_cache_size(Config(cache=cache), GIB), (0, None))


class Rules(SynchronousTestCase):
    """Rules on configurations that code made."""

    def test_good(self) -> None:
        """The defaults break no rule."""
        report = Report()
        check(Config(), {}, report)
        self.assertEqual(report.problems, [])

    def test_without_origin(self) -> None:
        """Where nobody set a value, the defaults are named."""
        report = Report()
        check(Config(server=Server(http_port=9090)), {}, report)
        self.assertEqual([str(problem) for problem in report.problems], [
            "defaults: metrics.port: value 9090 is also server.http_port; allowed a port of its own"])


class Files(SynchronousTestCase):
    """Certificates and keys."""

    def setUp(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy.test")])
        begin = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
        self.certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
            .serial_number(1).not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def file(self, data: bytes) -> str:
        """A file with these bytes."""
        path = str(self.mktemp())
        with open(path, "wb") as file:
            file.write(data)
        return path

    def pem(self, key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
        """The key as PEM."""
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        data: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        return data

    def problems(self, cert: str, key: str) -> list[str]:
        """Problems of a TLS listener with these files."""
        config = Config(server=Server(tls=Tls(enabled=True, cert_path=cert, key_path=key)))
        return [str(problem) for problem in check_files(config, {"server.tls.cert_path": "f.yaml:3"})]

    def test_good(self) -> None:
        """A certificate and its key are no problem."""
        self.assertEqual(self.problems(self.file(self.certificate), self.file(self.pem(self.key))), [])

    def test_off(self) -> None:
        """Files of a listener that is off are not looked at."""
        config = Config(server=Server(tls=Tls(cert_path="/nonexistent", key_path="/nonexistent")))
        self.assertEqual(check_files(config, {}), ())

    def test_missing(self) -> None:
        """Each file that cannot be read is named, with where it was configured and the reason."""
        cert, key = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        self.assertEqual(self.problems(cert, key), [
            f"f.yaml:3: server.tls.cert_path: file {cert} cannot be read: No such file or directory",
            f"server.tls.key_path: file {key} cannot be read: No such file or directory",
        ])

    def test_wrong_key(self) -> None:
        """A key that belongs to another certificate is a problem."""
        key = self.file(self.pem(ec.generate_private_key(ec.SECP256R1())))
        (problem,) = self.problems(self.file(self.certificate), key)
        self.assertIn(f"holds a certificate that does not belong to the key in {key}", problem)

    def test_no_pem(self) -> None:
        """So are files that hold something else."""
        (problem,) = self.problems(self.file(b"nonsense"), self.file(self.pem(self.key)))
        self.assertIn("is not usable", problem)

    def test_key_with_a_password(self) -> None:
        """Nobody is asked for the password of a key."""
        (problem,) = self.problems(self.file(self.certificate), self.file(self.pem(self.key, b"secret")))
        self.assertIn("the key without a password", problem)

    def test_authorities(self) -> None:
        """Files with authorities are read, too."""
        good, bad, missing = self.file(self.certificate), self.file(b"x"), self.mktemp()
        overrides = {
            f"{name}.lan:443": UpstreamOverride(scheme="https", ca_file=path)
            for name, path in (("a", good), ("b", bad), ("c", missing))
        }
        config = Config(connection_pool=ConnectionPool(upstream_overrides=overrides))
        problems = [str(problem) for problem in check_files(config, {"connection_pool.upstream_overrides": "f.yaml:7"})]
        self.assertEqual(len(problems), 2)
        self.assertTrue(problems[0].startswith(
            f'f.yaml:7: connection_pool.upstream_overrides."b.lan:443".ca_file: file {bad} holds no certificates'))
        self.assertIn("cannot be read", problems[1])


class OtlpTests(SynchronousTestCase):
    """What the export by OTLP needs."""

    def problems(self, **otlp: Any) -> list[str]:
        """What is wrong with this section, every key of which is on a line of its own."""
        config = Config(metrics=Metrics(otlp=Otlp(**otlp)))
        origins = {f"metrics.otlp.{key}": f"f.yaml:{line}" for line, key in enumerate(otlp, 1)}
        return [str(problem) for problem in check_files(config, origins)]

    def without_packages(self) -> None:
        """Nothing of the extra can be imported any more."""
        modules = mock.patch.dict(sys.modules)
        modules.start()
        self.addCleanup(modules.stop)
        for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
            del sys.modules[name]

        class Missing(MetaPathFinder):
            def find_spec(self, name: str, *_: object) -> None:
                if name.partition(".")[0] == "opentelemetry":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        self.patch(sys, "meta_path", [Missing(), *sys.meta_path])

    def test_good(self) -> None:
        """With the extra, and without files, nothing is wrong."""
        self.assertEqual(self.problems(enabled=True, headers={"a": "b"}), [])

    def test_missing_packages(self) -> None:
        """Without the extra, the key is named, and what to do."""
        self.without_packages()
        self.assertEqual(self.problems(enabled=True), [
            "f.yaml:1: metrics.otlp.enabled: the value true needs packages that are not installed "
            "(No module named 'opentelemetry'); install them: pip install \"s3proxy[otlp]\""])

    def test_off(self) -> None:
        """An export that is off needs nothing."""
        self.without_packages()
        self.assertEqual(self.problems(enabled=False, ca_file="/nonexistent", headers={"a": "file:/nonexistent"}), [])

    def test_files(self) -> None:
        """Files with headers and authorities are read; what they say is not shown."""
        path = str(self.mktemp())
        with open(path, "wb") as file:
            file.write(b"hunter2")
        found = self.problems(enabled=True, ca_file=path, headers={"a": f"file:{path}", "b": "file:/nonexistent"})
        self.assertEqual(len(found), 2)
        self.assertTrue(found[0].startswith(f"f.yaml:2: metrics.otlp.ca_file: file {path} holds no certificates"))
        self.assertEqual(found[1], 'f.yaml:3: metrics.otlp.headers."b": file /nonexistent cannot be read: '
                                   "No such file or directory")


class TightLimitTests(SynchronousTestCase):
    """Limits that do not fit together."""

    def test_connections(self) -> None:
        """Fewer connections to S3 than requests are worth a word; none at all is no limit."""
        for connections, requests, expected in ((1024, 1000, 0), (999, 1000, 1), (0, 1000, 0), (1000, 1000, 0)):
            config = Config(
                connection_pool=ConnectionPool(max_connections=connections),
                server=Server(max_concurrent_requests=requests),
            )
            self.assertEqual(len(list(tight_limits(config))), expected)
