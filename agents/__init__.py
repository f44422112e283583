"""Stable-Baselines3 agents: ``gqn_rl.agents``, which ``import agents`` from a clone's root is an alias of."""

if __name__ == "agents":
    from gqn_rl.aliases import alias_package

    alias_package("agents", "gqn_rl.agents")
