"""Beginning with what another run has learned."""

from __future__ import annotations

from jaxdreamer.agent.algorithm import Parts
from jaxdreamer.types import PyTree, TrainState


def begin(state: TrainState, params: PyTree, aux: PyTree, parts: Parts) -> TrainState:
    """Dreamer's fresh ``state`` with weights of another run's ``params`` and ``aux``; optimizers, counters and key stay.

    The statistics of observations go with the world model, which sees through them; the target critic and the range of
    returns, by which the actor's advantage is scaled, go with actor and critic. So do averages of parameters, where both
    runs act with such.
    """
    names = ("model", "actor", "critic") if parts == "all" else ("model",)
    state_aux = state.aux | {"statistics": aux["statistics"]}
    if parts == "all":
        state_aux |= {name: aux[name] for name in ("target_critic", "returns") if name in state.aux and name in aux}
    if "acting" in state.aux:
        acts = aux.get("acting", params)
        state_aux["acting"] = state.aux["acting"] | {name: acts[name] for name in names if name in state.aux["acting"]}
    return state._replace(params=state.params | {name: params[name] for name in names}, aux=state_aux)
