"""Messages that Redis itself sends: written once by Celery and kombu, multiplied by the steps that send them.

An item's message holds no prompt, only the name of its map, so that all messages of a map differ in two places: the
task's id and the delivery tag.
"""

# Celery's and kombu's type stubs do not know what builds a message.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from bisect import bisect
from typing import Any, Final, NamedTuple, cast
from uuid import uuid4

from celery import Celery
from celery.canvas import Signature
from kombu import Connection, Queue
from kombu.transport.redis import Channel
from kombu.utils.json import dumps

from kagura_tasks.metrics.publishing import SENT_AT_HEADER

#: What stands for the task's id, and for how many messages the map has sent, in the message of any item (advance.lua).
ITEM: Final = "@ITEM@"
SENT: Final = "@SENT@"

#: What stands for when the message is sent (Unix ms), in those for items and in any other (advance.lua).
NOW: Final = "@NOW@"

_RedisChannel: Any = Channel


class ListedMessage(NamedTuple):
    """A message, and the Redis list that its queue and priority name."""

    list_key: str
    text: str


def item_message(app: Celery, signature: Signature[Any], token: str) -> ListedMessage:
    """The message for any item of a map. `token`: a text that no other map has, also none of its name."""
    message = _written(app, signature, ITEM)
    message["properties"]["delivery_tag"] = f"{token}.{SENT}"
    return _listed(app, message)


def message_for(app: Celery, signature: Signature[Any], task_id: str) -> ListedMessage:
    """The message for this one task."""
    return _listed(app, _written(app, signature, task_id))


def _written(app: Celery, signature: Signature[Any], task_id: str) -> dict[str, Any]:
    """What Celery and kombu would send for it, signals of Celery's included: whoever traces adds headers there."""
    sender = cast(Any, app).amqp
    options = dict(signature.options)
    shown = {name: options.pop(name) for name in ("argsrepr", "kwargsrepr") if name in options}
    message = sender.create_task_message(task_id, signature.task, signature.args, signature.kwargs, **shown)
    wanted = options.pop("queue")
    queue = Queue(uuid4().hex)  # the memory transport's queues are the process's
    with Connection("memory://") as connection:
        producer = sender.Producer(connection, auto_declare=False)
        sender.send_task_message(producer, signature.task, message, queue=queue, serializer="json", **options)
        channel: Any = connection.default_channel
        written: dict[str, Any] = channel._get(queue.name)
        channel.queue_delete(queue.name)
    written["headers"][SENT_AT_HEADER] = NOW
    written["properties"]["delivery_info"] = {"exchange": "", "routing_key": wanted}
    return written


def _listed(app: Celery, message: dict[str, Any]) -> ListedMessage:
    """As kombu's Redis transport would push it, by the app's own options."""
    options = dict(cast(Any, app).conf.broker_transport_options or {})
    steps = options.get("priority_steps", _RedisChannel.priority_steps)
    step = steps[bisect(steps, int(message["properties"].get("priority") or 0)) - 1]
    queue = message["properties"]["delivery_info"]["routing_key"]
    name = f"{queue}{options.get('sep', _RedisChannel.sep)}{step}" if step else queue
    return ListedMessage(f"{options.get('global_keyprefix', '')}{name}", dumps(message))
