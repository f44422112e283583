"""Gymnasium environments on MuJoCo: ``gqn_rl.envs``, which ``import envs`` from a clone's root is an alias of."""

if __name__ == "envs":
    from gqn_rl.aliases import alias_package

    alias_package("envs", "gqn_rl.envs")
