"""Results in a table of Amazon DynamoDB (``dynamodb://key:secret@region/table?ttl_seconds=600``).

The host of the URL is a region, or a host and port of another server that speaks the protocol;
without key and secret the usual places are looked at. The table is made when it is missing. Options
in the query: ``read`` and ``write``, capacity units of a new table; ``ttl_seconds``, how long
results live, 0 for ever; ``endpoint_url``. Chords are counted in the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from kombu.utils.encoding import ensure_bytes

from celery.backends._versioned import once_per_process
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured

try:
    import boto3
    import botocore.config
    import botocore.exceptions
except ImportError:
    boto3 = None

__all__ = ("DynamoDBBackend",)

E_MISSING = "The DynamoDB result back-end needs the package boto3: pip install 'celery[dynamodb]'"

#: Seconds for a connection, and for an answer.
TIMEOUTS_S = (10, 30)
#: Keys read with one request: the most that the service takes.
MGET_SIZE = 100
#: Attempts at keys that the service has put off.
MGET_ATTEMPTS = 10


class DynamoDBAttribute(NamedTuple):
    """An attribute of items: its name, and the letter of its type."""

    name: str
    data_type: str


class DynamoDBBackend(KeyValueStoreBackend):
    """Keeps results in a table.

    Args:
        url: See the module.
        table_name: Overrides the one of the URL.

    Raises:
        ImproperlyConfigured: boto3 is not installed, or the URL is not understood.
    """

    table_name = "celery"
    read_capacity_units = 1
    write_capacity_units = 1
    aws_region: str | None = None
    endpoint_url: str | None = None
    time_to_live_seconds: int | None = None
    supports_autoexpire = True
    supports_result_compression = True
    implements_incr = True

    _key_field = DynamoDBAttribute("id", "S")
    _value_field = DynamoDBAttribute("result", "B")
    _count_field = DynamoDBAttribute("chord_count", "N")
    _timestamp_field = DynamoDBAttribute("timestamp", "N")
    _ttl_field = DynamoDBAttribute("ttl", "N")

    def __init__(
        self, url: str | None = None, table_name: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if boto3 is None:
            raise ImproperlyConfigured(E_MISSING)
        self.url = url
        self._credentials: dict[str, str] = {}
        if url is not None:
            self._read_url(url)
        self.table_name = table_name or self.table_name

    def _read_url(self, url: str) -> None:
        parts = urlsplit(url)
        if bool(parts.username) != bool(parts.password):
            raise ImproperlyConfigured(
                "The URL of the DynamoDB result back-end has to name both the access key and the"
                " secret, or neither: dynamodb://KEY:SECRET@REGION/TABLE"
            )
        if parts.username and parts.password:
            self._credentials = {
                "aws_access_key_id": unquote(parts.username),
                "aws_secret_access_key": unquote(parts.password),
            }
        options = dict(parse_qsl(parts.query))
        host = parts.hostname or ""
        if host == "localhost" or parts.port:
            self.aws_region = options.get("region", "us-east-1")
            self.endpoint_url = f"http://{host}:{parts.port or 8000}"
        elif host:
            self.aws_region = host
        self.endpoint_url = options.get("endpoint_url", self.endpoint_url)
        self.table_name = parts.path.strip("/") or self.table_name
        try:
            self.read_capacity_units = int(options.get("read", self.read_capacity_units))
            self.write_capacity_units = int(options.get("write", self.write_capacity_units))
            seconds = options.get("ttl_seconds", self.time_to_live_seconds)
            self.time_to_live_seconds = None if seconds is None else int(seconds)
        except ValueError as exc:
            raise ImproperlyConfigured(
                "read, write and ttl_seconds in the URL of the DynamoDB result back-end are whole"
                f" numbers: {exc}"
            ) from exc

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {"table_name": self.table_name, **(kwargs or {})})

    # -- the table

    @once_per_process
    def client(self) -> Any:
        """The client of the service; asking for it sees to it that the table is there."""
        connect_s, read_s = TIMEOUTS_S
        client = boto3.client(
            "dynamodb",
            region_name=self.aws_region,
            endpoint_url=self.endpoint_url,
            config=botocore.config.Config(connect_timeout=connect_s, read_timeout=read_s),
            **self._credentials,
        )
        self._ensure_table(client)
        self._ensure_expiry(client)
        return client

    def _ensure_table(self, client: Any) -> None:
        try:
            client.describe_table(TableName=self.table_name)
        except client.exceptions.ResourceNotFoundException:
            name, kind = self._key_field
            # Another process may be faster.
            with suppress(client.exceptions.ResourceInUseException):
                client.create_table(
                    TableName=self.table_name,
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind}],
                    KeySchema=[{"AttributeName": name, "KeyType": "HASH"}],
                    ProvisionedThroughput={
                        "ReadCapacityUnits": self.read_capacity_units,
                        "WriteCapacityUnits": self.write_capacity_units,
                    },
                )
            client.get_waiter("table_exists").wait(TableName=self.table_name)

    def _ensure_expiry(self, client: Any) -> None:
        seconds = self.time_to_live_seconds
        if seconds is None:
            return
        found = client.describe_time_to_live(TableName=self.table_name)
        is_on = found["TimeToLiveDescription"]["TimeToLiveStatus"] in {"ENABLED", "ENABLING"}
        if is_on != (seconds > 0):
            client.update_time_to_live(
                TableName=self.table_name,
                TimeToLiveSpecification={
                    "Enabled": seconds > 0,
                    "AttributeName": self._ttl_field.name,
                },
            )

    # -- items

    def _id(self, key: Any) -> dict[str, Any]:
        # Items have always been named like this, by the text of a literal.
        return {self._key_field.name: {self._key_field.data_type: str(ensure_bytes(key))}}

    def _stamps(self) -> dict[str, Any]:
        now = time.time()
        stamps = {self._timestamp_field.name: {self._timestamp_field.data_type: str(now)}}
        if self.time_to_live_seconds:
            end = str(int(now + self.time_to_live_seconds))
            stamps[self._ttl_field.name] = {self._ttl_field.data_type: end}
        return stamps

    def _value(self, item: Any) -> Any:
        end = item.get(self._ttl_field.name)
        if end is not None and float(end[self._ttl_field.data_type]) <= time.time():
            # The service takes its time to delete what has expired.
            return None
        return item.get(self._value_field.name, {}).get(self._value_field.data_type)

    def get(self, key: Any) -> Any:
        """Read a value, None when there is none."""
        found = self.client.get_item(
            TableName=self.table_name, Key=self._id(key), ConsistentRead=True
        )
        return self._value(found["Item"]) if "Item" in found else None

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in the order of *keys*."""
        names = [self._id(key) for key in keys]
        field, kind = self._key_field
        values: dict[str, Any] = {}
        for start in range(0, len(names), MGET_SIZE):
            request: Any = {
                self.table_name: {"Keys": names[start : start + MGET_SIZE], "ConsistentRead": True}
            }
            for attempt in range(MGET_ATTEMPTS):
                if attempt:
                    time.sleep(0.01 * 2**attempt)
                found = self.client.batch_get_item(RequestItems=request)
                for item in found["Responses"].get(self.table_name, ()):
                    values[item[field][kind]] = self._value(item)
                request = found.get("UnprocessedKeys")
                if not request:
                    break
        return [values.get(name[field][kind]) for name in names]

    def set(self, key: Any, value: Any) -> None:
        """Write a value."""
        name, kind = self._value_field
        item = {**self._id(key), name: {kind: ensure_bytes(value)}, **self._stamps()}
        self.client.put_item(TableName=self.table_name, Item=item)

    def delete(self, key: Any) -> None:
        """Delete an item; a missing one is fine."""
        self.client.delete_item(TableName=self.table_name, Key=self._id(key))

    def incr(self, key: Any) -> int:
        """Add one to a counter and return it."""
        name, kind = self._count_field
        found = self.client.update_item(
            TableName=self.table_name,
            Key=self._id(key),
            UpdateExpression="ADD #count :one",
            ExpressionAttributeNames={"#count": name},
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        return int(found["Attributes"][name][kind])

    def expire(self, key: Any, value: Any) -> None:
        """Let a key live for *value* more seconds, where the table has expiry."""
        if not self.time_to_live_seconds:
            return
        name, kind = self._ttl_field
        self.client.update_item(
            TableName=self.table_name,
            Key=self._id(key),
            UpdateExpression="SET #end = :end",
            ExpressionAttributeNames={"#end": name},
            ExpressionAttributeValues={":end": {kind: str(int(time.time() + float(value)))}},
        )

    def claim(self, name: str, seconds: int) -> bool:
        """Become the only one, of those who ask for *name*, for so many seconds."""
        field, kind = self._timestamp_field
        now = time.time()
        try:
            self.client.put_item(
                TableName=self.table_name,
                Item={**self._id(self.get_key_for_chord(name)), **self._stamps()},
                ConditionExpression="attribute_not_exists(#at) OR #at < :over",
                ExpressionAttributeNames={"#at": field},
                ExpressionAttributeValues={":over": {kind: str(now - seconds)}},
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True
