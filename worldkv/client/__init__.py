"""The store's client: all shards behind one `Store`, and the worlds and sessions that they keep."""

from worldkv.client.client import KVClient
from worldkv.client.config import ClientConfig
from worldkv.client.handover import HandedOver, hand_over
from worldkv.client.membership import Member, Members, Membership, MembershipFile, fixed
from worldkv.client.policy import Retry
from worldkv.client.shard import ShardStats

__all__ = [
    "ClientConfig",
    "HandedOver",
    "KVClient",
    "Member",
    "Members",
    "Membership",
    "MembershipFile",
    "Retry",
    "ShardStats",
    "fixed",
    "hand_over",
]
