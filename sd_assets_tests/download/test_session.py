"""What of aiohttp's inside the session relies on."""

import asyncio

import aiohttp
from aiohttp.client_proto import ResponseHandler

from sd_assets.download.addresses import AddressPolicy
from sd_assets.download.session import PolicyResolver, open_session
from sd_assets.settings import DownloadSettings


def test_the_private_attributes_of_aiohttp_that_we_set_are_still_its_own() -> None:
    """Had another release other names for them, to set ours would do nothing, and say nothing."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            assert session._retry_connection is True
            assert isinstance(session.connector, aiohttp.TCPConnector)
            made = session.connector._factory()
            assert type(made) is ResponseHandler

        policy = AddressPolicy()
        resolver = PolicyResolver(policy)
        async with open_session(DownloadSettings(), policy, resolver) as ours:
            assert ours._retry_connection is False
            assert isinstance(ours.connector, aiohttp.TCPConnector)
            made = ours.connector._factory()
            assert isinstance(made, ResponseHandler)
            assert type(made) is not ResponseHandler
        await resolver.close()

    asyncio.run(run())
