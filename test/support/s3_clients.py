"""Real S3 clients behind one interface: boto3, the CRT client through s3transfer, the AWS CLI and s5cmd.

All block; all sign with the one credential they are given and address buckets in path style. ``proxy`` is the URL for
HTTP_PROXY. Downloads go to files, as with most users of these programs, and are compared there.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from test.support.proxy_process import clean_environment
from test.support.sigv4 import Credential
from typing import Any

import attrs

__all__ = ["CLIENTS", "ObjectStat", "S3Client", "file_sha256", "installed_clients"]

_SECONDS = 300


@attrs.frozen(kw_only=True)
class ObjectStat:
    """What HEAD tells."""

    size: int
    etag: str
    """Without quotes; empty where the client does not show it."""


def file_sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


@attrs.frozen(kw_only=True)
class S3Client(ABC):
    """One client, set up for one endpoint; subclasses say how each thing is done."""

    endpoint: str
    credential: Credential
    proxy: str | None = None
    folder: Path
    """Where configuration and temporary files may go."""

    @abstractmethod
    def upload(self, source: Path, bucket: str, key: str) -> None:
        """Upload a file."""

    @abstractmethod
    def download(self, bucket: str, key: str, target: Path) -> None:
        """Download an object to a file."""

    @abstractmethod
    def stat(self, bucket: str, key: str) -> ObjectStat | None:
        """What HEAD tells, or None if there is no such object."""

    @abstractmethod
    def list(self, bucket: str, prefix: str) -> "list[str]":
        """The keys with this prefix."""

    @abstractmethod
    def copy(self, bucket: str, key: str, new_key: str) -> None:
        """Copy on the server's side."""

    @abstractmethod
    def delete(self, bucket: str, key: str) -> None:
        """Delete one object."""

    @abstractmethod
    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        """Delete objects with one request, where the client can."""

    def environment(self) -> dict[str, str]:
        """For programs: credential, region, proxy, and no configuration file of the user's."""
        found = clean_environment()
        found.update(
            AWS_ACCESS_KEY_ID=self.credential.access_key,
            AWS_SECRET_ACCESS_KEY=self.credential.secret_key,
            AWS_REGION="us-east-1",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_CONFIG_FILE=str(self.folder / "aws-config"),
            AWS_SHARED_CREDENTIALS_FILE=os.devnull,
            AWS_EC2_METADATA_DISABLED="true",
            AWS_MAX_ATTEMPTS="1",
        )
        if self.proxy is not None:
            found.update(HTTP_PROXY=self.proxy, http_proxy=self.proxy)
        return found

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end.

        :raises AssertionError: if it fails.
        """
        done = subprocess.run(command, env=self.environment(), cwd=self.folder, capture_output=True, timeout=_SECONDS)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.decode()[-3000:]}")
        return done


def _botocore_client(client: S3Client, **config: Any) -> Any:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    proxies = {"http": client.proxy} if client.proxy is not None else {}
    session = boto3.Session(
        aws_access_key_id=client.credential.access_key,
        aws_secret_access_key=client.credential.secret_key,
        region_name="us-east-1",
    )
    return session.client(
        "s3",
        endpoint_url=client.endpoint,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies=proxies, **config),
    )


@attrs.frozen(kw_only=True)
class Boto3(S3Client):
    """boto3 with its transfer manager: parallel ranges of 8 MiB in 10 threads."""

    _made: list[Any] = attrs.field(factory=list)
    threads = True

    @property
    def _client(self) -> Any:
        if not self._made:
            self._made.append(_botocore_client(self))
        return self._made[0]

    def upload(self, source: Path, bucket: str, key: str) -> None:
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

        self._client.upload_file(str(source), bucket, key, Config=TransferConfig(use_threads=self.threads))

    def download(self, bucket: str, key: str, target: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        self._client.download_file(bucket, key, str(target), Config=TransferConfig(use_threads=self.threads))

    def stat(self, bucket: str, key: str) -> ObjectStat | None:
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        try:
            head = self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return ObjectStat(size=head["ContentLength"], etag=head["ETag"].strip('"'))

    def list(self, bucket: str, prefix: str) -> "list[str]":
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def copy(self, bucket: str, key: str, new_key: str) -> None:
        self._client.copy_object(Bucket=bucket, Key=new_key, CopySource={"Bucket": bucket, "Key": key})

    def delete(self, bucket: str, key: str) -> None:
        self._client.delete_object(Bucket=bucket, Key=key)

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        objects = [{"Key": key} for key in keys]
        answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": objects})
        if answer.get("Errors"):
            raise AssertionError(answer["Errors"])


@attrs.frozen(kw_only=True)
class Boto3Single(Boto3):
    """boto3 without transfer threads: one plain GET or PUT of the whole object."""

    threads = False

    def upload(self, source: Path, bucket: str, key: str) -> None:
        with source.open("rb") as body:
            self._client.put_object(Bucket=bucket, Key=key, Body=body)

    def download(self, bucket: str, key: str, target: Path) -> None:
        body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
        with target.open("wb") as file:
            for piece in body.iter_chunks(1 << 20):
                file.write(piece)


_CRT_PROGRAM = """
import sys
from botocore.config import Config
from botocore.session import Session
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper, BotocoreCRTRequestSerializer, CRTTransferManager, create_s3_crt_client
)

endpoint, action, bucket, key, path = sys.argv[1:6]
session = Session()
arguments = {
    "endpoint_url": endpoint, "region_name": "us-east-1", "config": Config(s3={"addressing_style": "path"})
}
credentials = BotocoreCRTCredentialsWrapper(session.get_credentials())
client = create_s3_crt_client("us-east-1", credentials.to_crt_credentials_provider(), use_ssl=False)
manager = CRTTransferManager(client, BotocoreCRTRequestSerializer(session, arguments))
with manager:
    if action == "upload":
        manager.upload(path, bucket, key, extra_args={"ChecksumAlgorithm": "crc32"}).result()
    else:
        manager.download(bucket, key, path).result()
"""


@attrs.frozen(kw_only=True)
class CRT(Boto3):
    """The CRT client (aws-c-s3) for transfers, through s3transfer; the rest is boto3, as in boto3 and the AWS CLI.

    boto3 itself can't use it with an http endpoint. The transfer runs in a process of its own, because the CRT takes
    its proxy from the environment and keeps threads.
    """

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self.run(sys.executable, "-c", _CRT_PROGRAM, self.endpoint, "upload", bucket, key, str(source))

    def download(self, bucket: str, key: str, target: Path) -> None:
        self.run(sys.executable, "-c", _CRT_PROGRAM, self.endpoint, "download", bucket, key, str(target))


@attrs.frozen(kw_only=True)
class AWSCLI(S3Client):
    """The AWS CLI of the Python environment that runs the tests (version 1)."""

    def _aws(self, *arguments: str) -> bytes:
        (self.folder / "aws-config").write_text("[default]\ns3 =\n    addressing_style = path\n")
        program = "import sys; from awscli.clidriver import main; sys.exit(main())"
        return self.run(sys.executable, "-c", program, "--endpoint-url", self.endpoint, *arguments).stdout

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self._aws("s3", "cp", "--only-show-errors", str(source), f"s3://{bucket}/{key}")

    def download(self, bucket: str, key: str, target: Path) -> None:
        self._aws("s3", "cp", "--only-show-errors", f"s3://{bucket}/{key}", str(target))

    def stat(self, bucket: str, key: str) -> ObjectStat | None:
        try:
            found = json.loads(self._aws("s3api", "head-object", "--bucket", bucket, "--key", key))
        except AssertionError as error:
            if "(404)" in str(error):
                return None
            raise
        return ObjectStat(size=found["ContentLength"], etag=found["ETag"].strip('"'))

    def list(self, bucket: str, prefix: str) -> "list[str]":
        try:
            lines = self._aws("s3", "ls", "--recursive", f"s3://{bucket}/{prefix}").decode().splitlines()
        except AssertionError as error:
            if str(error).endswith("failed with 1: "):
                return []
            raise
        return [line.split(maxsplit=3)[3] for line in lines]

    def copy(self, bucket: str, key: str, new_key: str) -> None:
        self._aws("s3", "cp", "--only-show-errors", f"s3://{bucket}/{key}", f"s3://{bucket}/{new_key}")

    def delete(self, bucket: str, key: str) -> None:
        self._aws("s3", "rm", "--only-show-errors", f"s3://{bucket}/{key}")

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        objects = json.dumps({"Objects": [{"Key": key} for key in keys]})
        self._aws("s3api", "delete-objects", "--bucket", bucket, "--delete", objects)


@attrs.frozen(kw_only=True)
class S5cmd(S3Client):
    """s5cmd, which is written with the AWS SDK for Go."""

    def _s5cmd(self, *arguments: str) -> bytes:
        beside = Path(sys.executable).with_name("s5cmd")
        program = str(beside) if beside.exists() else shutil.which("s5cmd") or "s5cmd"
        return self.run(program, "--retry-count", "0", "--endpoint-url", self.endpoint, "--json", *arguments).stdout

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self._s5cmd("cp", str(source), f"s3://{bucket}/{key}")

    def download(self, bucket: str, key: str, target: Path) -> None:
        self._s5cmd("cp", f"s3://{bucket}/{key}", str(target))

    def stat(self, bucket: str, key: str) -> ObjectStat | None:
        try:
            found = json.loads(self._s5cmd("head", f"s3://{bucket}/{key}").splitlines()[0])
        except AssertionError as error:
            if "not found" in str(error):
                return None
            raise
        return ObjectStat(size=found["size"], etag=found.get("etag", "").strip('"'))

    def list(self, bucket: str, prefix: str) -> "list[str]":
        try:
            lines = self._s5cmd("ls", f"s3://{bucket}/{prefix}*").splitlines()
        except AssertionError as error:
            if "no object found" in str(error):
                return []
            raise
        return [json.loads(line)["key"].partition(f"s3://{bucket}/")[2] for line in lines]

    def copy(self, bucket: str, key: str, new_key: str) -> None:
        self._s5cmd("cp", f"s3://{bucket}/{key}", f"s3://{bucket}/{new_key}")

    def delete(self, bucket: str, key: str) -> None:
        self._s5cmd("rm", f"s3://{bucket}/{key}")

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        self._s5cmd("rm", *(f"s3://{bucket}/{key}" for key in keys))


@attrs.frozen(kw_only=True)
class Rclone(S3Client):
    """rclone, if it is installed."""

    def _rclone(self, *arguments: str) -> bytes:
        remote = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": self.endpoint,
            "ACCESS_KEY_ID": self.credential.access_key,
            "SECRET_ACCESS_KEY": self.credential.secret_key,
            "REGION": "us-east-1",
            "FORCE_PATH_STYLE": "true",
            "NO_CHECK_BUCKET": "true",
            "CHUNK_SIZE": "5M",
            "UPLOAD_CUTOFF": "16M",
        }
        settings = [f"RCLONE_CONFIG_S3_{name}={value}" for name, value in remote.items()]
        options = ("--config", os.devnull, "--retries", "1", "--low-level-retries", "1")
        return self.run("env", *settings, "rclone", *options, *arguments).stdout

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self._rclone("copyto", str(source), f"s3:{bucket}/{key}")

    def download(self, bucket: str, key: str, target: Path) -> None:
        self._rclone("copyto", f"s3:{bucket}/{key}", str(target))

    def stat(self, bucket: str, key: str) -> ObjectStat | None:
        found = json.loads(self._rclone("lsjson", "--stat", f"s3:{bucket}/{key}") or b"null")
        return None if found is None else ObjectStat(size=found["Size"], etag="")

    def list(self, bucket: str, prefix: str) -> "list[str]":
        names = self._rclone("lsf", "--recursive", "--files-only", f"s3:{bucket}").decode().splitlines()
        return [name for name in names if name.startswith(prefix)]

    def copy(self, bucket: str, key: str, new_key: str) -> None:
        self._rclone("copyto", f"s3:{bucket}/{key}", f"s3:{bucket}/{new_key}")

    def delete(self, bucket: str, key: str) -> None:
        self._rclone("deletefile", f"s3:{bucket}/{key}")

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(bucket, key)


@attrs.frozen(kw_only=True)
class Minio(S3Client):
    """MinIO's client for Python, if it is installed."""

    _made: list[Any] = attrs.field(factory=list)

    @property
    def _client(self) -> Any:
        if not self._made:
            import minio  # type: ignore[import-not-found]
            import urllib3

            host = self.endpoint.partition("://")[2]
            pool = urllib3.ProxyManager(self.proxy) if self.proxy is not None else urllib3.PoolManager()
            client = minio.Minio(
                endpoint=host,
                access_key=self.credential.access_key,
                secret_key=self.credential.secret_key,
                region="us-east-1",
                secure=False,
                http_client=pool,
            )
            client.disable_virtual_style_endpoint()
            self._made.append(client)
        return self._made[0]

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self._client.fput_object(bucket_name=bucket, object_name=key, file_path=str(source))

    def download(self, bucket: str, key: str, target: Path) -> None:
        self._client.fget_object(bucket_name=bucket, object_name=key, file_path=str(target))

    def stat(self, bucket: str, key: str) -> ObjectStat | None:
        found = self._client.stat_object(bucket_name=bucket, object_name=key)
        return ObjectStat(size=found.size, etag=found.etag)

    def list(self, bucket: str, prefix: str) -> "list[str]":
        found = self._client.list_objects(bucket_name=bucket, prefix=prefix, recursive=True)
        return [item.object_name for item in found]

    def copy(self, bucket: str, key: str, new_key: str) -> None:
        from minio.commonconfig import CopySource  # type: ignore[import-not-found]

        source = CopySource(bucket_name=bucket, object_name=key)
        self._client.copy_object(bucket_name=bucket, object_name=new_key, source=source)

    def delete(self, bucket: str, key: str) -> None:
        self._client.remove_object(bucket_name=bucket, object_name=key)

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(bucket, key)


@attrs.frozen(kw_only=True)
class PyArrow(Boto3):
    """Arrow's S3 file system (the AWS SDK for C++) for transfers, if pyarrow is installed; the rest is boto3.

    In a process of its own, because it takes its proxy once for all.
    """

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self.run(sys.executable, "-c", _ARROW_PROGRAM, self.endpoint, "upload", f"{bucket}/{key}", str(source))

    def download(self, bucket: str, key: str, target: Path) -> None:
        self.run(sys.executable, "-c", _ARROW_PROGRAM, self.endpoint, "download", f"{bucket}/{key}", str(target))


_ARROW_PROGRAM = """
import os, shutil, sys
from urllib.parse import urlsplit
from pyarrow.fs import S3FileSystem

endpoint, action, name, path = sys.argv[1:5]
proxy = urlsplit(os.environ["HTTP_PROXY"]) if "HTTP_PROXY" in os.environ else None
options = {} if proxy is None else {
    "proxy_options": {"scheme": "http", "host": proxy.hostname, "port": proxy.port}
}
store = S3FileSystem(
    endpoint_override=endpoint.partition("://")[2], scheme="http", region="us-east-1", force_virtual_addressing=False,
    access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"], **options
)
if action == "upload":
    with open(path, "rb") as source, store.open_output_stream(name) as target:
        shutil.copyfileobj(source, target, 1 << 20)
else:
    with store.open_input_stream(name) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
"""


@attrs.frozen(kw_only=True)
class TorchConnector(Boto3):
    """The client of s3torchconnector, which is Mountpoint's, for transfers, if it is installed; the rest is boto3.

    In a process of its own, because it takes its proxy from the environment and keeps threads.
    """

    def upload(self, source: Path, bucket: str, key: str) -> None:
        self.run(sys.executable, "-c", _TORCH_PROGRAM, self.endpoint, "upload", bucket, key, str(source))

    def download(self, bucket: str, key: str, target: Path) -> None:
        self.run(sys.executable, "-c", _TORCH_PROGRAM, self.endpoint, "download", bucket, key, str(target))


_TORCH_PROGRAM = """
import sys
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

endpoint, action, bucket, key, path = sys.argv[1:6]
client = MountpointS3Client("us-east-1", endpoint=endpoint, force_path_style=True, max_attempts=1)
if action == "upload":
    target = client.put_object(bucket, key)
    with open(path, "rb") as source:
        while piece := source.read(1 << 20):
            target.write(piece)
    target.close()
else:
    with open(path, "wb") as target:
        for piece in client.get_object(bucket, key):
            target.write(piece)
"""


def installed_clients() -> dict[str, type[S3Client]]:
    """Those of which the tests make no condition, as far as they are there."""
    found: dict[str, type[S3Client]] = {}
    if shutil.which("rclone") is not None:
        found["rclone"] = Rclone
    if importlib.util.find_spec("minio") is not None:
        found["minio"] = Minio
    if importlib.util.find_spec("pyarrow") is not None:
        found["pyarrow"] = PyArrow
    if importlib.util.find_spec("s3torchconnectorclient") is not None:
        found["s3torchconnector"] = TorchConnector
    return found


CLIENTS: dict[str, type[S3Client]] = {
    "boto3": Boto3,
    "boto3_single": Boto3Single,
    "crt": CRT,
    "awscli": AWSCLI,
    "s5cmd": S5cmd,
}
