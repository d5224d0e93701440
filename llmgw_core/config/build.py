"""From configured models to the typed ones that calls are planned on."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING

from llmgw_core.config.decode import decode
from llmgw_core.config.errors import ConfigErrors, join, listed, raise_all, suggestion
from llmgw_core.config.outgoing import missing_files, outgoing_of
from llmgw_core.config.rules import call_rules, streaming
from llmgw_core.config.schema_routing import inherit
from llmgw_core.config.secret_files import credential_of
from llmgw_core.domain.alias import Alias
from llmgw_core.domain.deployment import Deployment, Model, Timeouts
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.outgoing import DIRECT
from llmgw_core.domain.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec

    from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
    from llmgw_core.config.schema_aliases import AliasConfig
    from llmgw_core.domain.outgoing import Outgoing


def build_models(
    config: Config,
    options_of: Mapping[str, type[msgspec.Struct]],
    env: Mapping[str, str] | None = None,
) -> dict[str, Model]:
    """The models by public name. `options_of` gives the `Options` type of every backend that an
    enabled plugin registered; `env` the variables that may name a proxy (default: those of this
    process). Raises `ConfigErrors`."""
    models, errors = collect_models(config, options_of, env)
    raise_all(errors)
    return models


def collect_models(
    config: Config,
    options_of: Mapping[str, type[msgspec.Struct]],
    env: Mapping[str, str] | None = None,
) -> tuple[dict[str, Model], list[ConfigError]]:
    """As `build_models`, with the errors beside what could be built: the `options` of a
    deployment that is wrong are None."""
    builder = _Builder(config, options_of, os.environ if env is None else env)
    models = {name: builder.model(name, model) for name, model in config.models.items()}
    for name, alias in config.aliases.items():
        models.setdefault(name, alias_model(name, alias, models))
    return models, builder.errors


def alias_model(name: str, alias: AliasConfig, models: Mapping[str, Model]) -> Model:
    """The public name of an alias: of the kind of what it leads to."""
    kinds = [models[each.model].kind for each in alias.variants if each.model in models]
    return Model(
        name=name,
        deployments=(),
        tags=alias.tags,
        limits=alias.limits,
        kind=kinds[0] if kinds else "chat",
        created=_epoch(alias.created),
        life=alias.life,
        alias=Alias(alias.variants, alias.sticky, alias.session_header.lower(), alias.canary),
    )


class _Builder:
    def __init__(
        self,
        config: Config,
        options_of: Mapping[str, type[msgspec.Struct]],
        env: Mapping[str, str],
    ) -> None:
        self.errors: list[ConfigError] = []
        self._config = config
        self._general = config.outgoing
        self._env = env
        self._options_of = options_of

    def model(self, name: str, model: ModelConfig) -> Model:
        path = join(join("models", name), "deployments")
        return Model(
            name=name,
            deployments=tuple(
                self._deployment(name, model, deployment, join(path, index))
                for index, deployment in enumerate(model.deployments)
            ),
            fallbacks=model.fallbacks,
            context_fallbacks=model.context_fallbacks,
            content_policy_fallbacks=model.content_policy_fallbacks,
            rules=call_rules(self._config, model),
            tags=model.tags,
            limits=model.limits,
            kind=model.kind,
            created=_epoch(model.created),
            life=model.life,
            dimensions=model.dimensions,
        )

    def _deployment(
        self, name: str, model: ModelConfig, config: DeploymentConfig, path: str
    ) -> Deployment:
        general = self._config.routing
        secrets = (config.credential, *config.credentials)
        credentials = tuple(credential_of(each) for each in secrets if each)
        timeouts = (config.timeouts, model.timeouts, general.timeouts)
        return Deployment(
            id=f"{name}/{config.name}",
            model=name,
            backend=config.backend,
            zone=config.zone,
            upstream_model=config.model or name,
            weight=config.weight,
            priority=config.priority,
            caps=config.caps,
            credential=credentials[0] if credentials else credential_of(""),
            credentials=credentials if len(credentials) > 1 else (),
            transport=config.transport,
            timeouts=inherit(Timeouts, *timeouts),
            streaming=streaming(*timeouts),
            context_window=config.context_window or model.context_window,
            rules=inherit(Rules, config.routing, model.routing, general),
            on_disconnect=config.on_disconnect,
            ask_usage=config.ask_usage,
            outgoing=self._outgoing(config, path),
            options=self._options(config, path),
        )

    def _outgoing(self, config: DeploymentConfig, path: str) -> Outgoing:
        place = "outgoing" if config.outgoing is None else join(path, "outgoing")
        outgoing, errors = DIRECT, []
        try:
            outgoing = outgoing_of(self._general, config.outgoing, self._env, place)
            errors = list(missing_files(outgoing, place))
        except ConfigError as error:
            errors = [error]
        told = set(map(str, self.errors))
        self.errors += (error for error in errors if str(error) not in told)
        return outgoing

    def _options(self, config: DeploymentConfig, path: str) -> msgspec.Struct | None:
        kind = self._options_of.get(config.backend)
        if kind is None:
            hint = suggestion(config.backend, self._options_of) or "."
            message = (
                f"no enabled plugin has a backend `{config.backend}`"
                f" (enabled: {listed(self._options_of)}){hint}"
            )
            self.errors.append(ConfigError(message, path=join(path, "backend")))
            return None
        try:
            return decode(config.options, kind, join(path, "options"))
        except ConfigErrors as error:
            self.errors.extend(error.errors)
            return None


def _epoch(day: dt.date | None) -> int:
    """Seconds since the epoch at the start of `day` in UTC; 0 when it is not known."""
    if day is None:
        return 0
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    return int(start.timestamp())
