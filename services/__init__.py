"""The three services: kvstore, retriever and generator. They meet only through `worldkv.client`."""
