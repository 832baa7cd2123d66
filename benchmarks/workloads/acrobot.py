"""Many Acrobots at once, as arrays; gymnasium itself steps them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Array = NDArray[Any]
LONGEST = 500  # steps of an episode, as registered for Acrobot-v1


class Acrobots(VectorEnv[Array, Array, Array]):
    """Acrobot-v1, many times: gymnasium's own equations of motion on arrays.

    An environment that has ended begins anew in its next step, which ignores its action.

    Args:
        num_envs: how many.

    Source: Sutton & Barto 1998, section 11.3 (not in the edition of 2018); gymnasium's `acrobot.py`.
    """

    def __init__(self, num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self._one = AcrobotEnv()
        self.num_envs = num_envs
        self.single_observation_space = self._one.observation_space
        self.single_action_space: spaces.Discrete = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.reset`."""
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-0.1, 0.1, (4, self.num_envs))
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._over = np.zeros(self.num_envs, dtype=bool)
        return self._observed(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.step`."""
        state = self._moved(self._state, actions - 1.0)
        state[:2] = (state[:2] + np.pi) % (2 * np.pi) - np.pi
        state[2] = state[2].clip(-self._one.MAX_VEL_1, self._one.MAX_VEL_1)
        state[3] = state[3].clip(-self._one.MAX_VEL_2, self._one.MAX_VEL_2)
        anew = self._over
        state[:, anew] = self.np_random.uniform(-0.1, 0.1, (4, int(anew.sum())))
        self._state, self._lengths = state, np.where(anew, 0, self._lengths + 1)
        terminated = (-np.cos(state[0]) - np.cos(state[0] + state[1]) > 1.0) & ~anew
        truncated = self._lengths >= LONGEST
        self._over = terminated | truncated
        rewards = np.where(terminated | anew, 0.0, -1.0)
        return self._observed(), rewards, terminated, truncated, {}

    def _moved(self, state: Array, torque: Array) -> Array:
        """A step of the classical Runge-Kutta method, as in gymnasium's `rk4`."""

        def slope(at: Array) -> Array:
            return np.stack(self._one._dsdt([*at, torque])[:4])  # type: ignore[no-untyped-call]

        dt = self._one.dt
        k1 = slope(state)
        k2 = slope(state + dt / 2 * k1)
        k3 = slope(state + dt / 2 * k2)
        k4 = slope(state + dt * k3)
        moved: Array = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return moved

    def _observed(self) -> Array:
        first, second, *speeds = self._state
        angles = [np.cos(first), np.sin(first), np.cos(second), np.sin(second)]
        return np.stack([*angles, *speeds], axis=1).astype(np.float32)
