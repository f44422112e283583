"""An environment of one's own; importing this package registers it with Gymnasium."""

import gymnasium as gym

gym.register("MyEnv-v0", entry_point="my_pkg.my_env:MyEnv", max_episode_steps=25)
