from pathlib import Path

import pytest

from llmgw_core.accounting.sole import SoleGateway
from llmgw_core.config.schema import Config
from llmgw_core.domain.errors import ConfigError
from llmgw_core.gateway import Gateway


def test_the_right_to_keep_the_books_is_for_one_and_comes_free_again(tmp_path: Path) -> None:
    first = SoleGateway(tmp_path)
    with pytest.raises(ConfigError, match="another gateway keeps its books"):
        SoleGateway(tmp_path)
    first.close()
    SoleGateway(tmp_path).close()


async def test_a_second_gateway_on_one_configuration_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    async with Gateway.open(Config(), base_dir=tmp_path):
        with pytest.raises(ConfigError, match="a store and a journal of its own"):
            async with Gateway.open(Config(), base_dir=tmp_path):
                pass
    async with Gateway.open(Config(), base_dir=tmp_path):
        pass
