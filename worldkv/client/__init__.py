"""The services' clients: walks, all shards of the store behind one `Store`, and all replicas of the index."""

from worldkv.client.client import KVClient
from worldkv.client.config import ClientConfig
from worldkv.client.handover import HandedOver, Holdings, hand_over
from worldkv.client.membership import Member, Members, Membership, MembershipFile, fixed
from worldkv.client.policy import Retry
from worldkv.client.retriever import ReplicaStats, RetrieverClient
from worldkv.client.retriever_finder import RemoteFinder
from worldkv.client.retriever_replicas import RetrieverClientConfig
from worldkv.client.shard import ShardStats
from worldkv.client.standby import Standby
from worldkv.client.walk import Walk
from worldkv.client.walk_line import WalkClientConfig
from worldkv.client.walks import WalkClient
from worldkv.client.watching import Watched
from worldkv.wire_sessions import MemoryChange

__all__ = [
    "ClientConfig",
    "HandedOver",
    "Holdings",
    "KVClient",
    "Member",
    "Members",
    "Membership",
    "MembershipFile",
    "MemoryChange",
    "RemoteFinder",
    "ReplicaStats",
    "RetrieverClient",
    "RetrieverClientConfig",
    "Retry",
    "ShardStats",
    "Standby",
    "Walk",
    "WalkClient",
    "WalkClientConfig",
    "Watched",
    "fixed",
    "hand_over",
]
