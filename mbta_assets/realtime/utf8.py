"""Text in GTFS-realtime messages that is not UTF-8, which the bindings would return as bytes.

The standard's protobuf requires UTF-8 and the bindings do not check it. Reading each field in Python would take far
longer than parsing, so the parser checks it, by a description of the same messages that requires it.
"""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import EDITION_2023, FeatureSet, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.transit import gtfs_realtime_pb2


def _make_checked_class() -> type[Message]:
    """Return the class of feed messages whose parser raises DecodeError where text is not UTF-8."""
    file = FileDescriptorProto()
    gtfs_realtime_pb2.DESCRIPTOR.CopyToProto(file)
    file.syntax, file.edition = "editions", EDITION_2023  # whose strings are checked
    file.options.features.enum_type = FeatureSet.CLOSED
    waiting = list(file.message_type)
    while waiting:
        message_type = waiting.pop()
        waiting += message_type.nested_type
        for field in message_type.field:
            if field.label == FieldDescriptorProto.LABEL_REQUIRED:
                field.label = FieldDescriptorProto.LABEL_OPTIONAL  # an edition has no required fields
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(gtfs_realtime_pb2.FeedMessage.DESCRIPTOR.full_name))


_CHECKED_CLASS = _make_checked_class()


def make_utf8(message: Message, content: bytes) -> None:
    """Replace the bytes of a feed message that are not UTF-8 by their numbers, as `\\xff`; `content` is the message's.

    Ids that differ in such bytes stay different.
    """
    try:
        _CHECKED_CLASS.FromString(content)
    except DecodeError:
        _replace_bytes(message)


def _replace_bytes(message: Message) -> None:
    for field, value in message.ListFields():
        values: list[Any] = list(value) if field.is_repeated else [value]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in values:
                _replace_bytes(part)
        elif field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(text, str) for text in values):
            texts = [text if isinstance(text, str) else text.decode(errors="backslashreplace") for text in values]
            message.ClearField(field.name)
            if field.is_repeated:
                getattr(message, field.name).extend(texts)
            else:
                setattr(message, field.name, texts[0])
