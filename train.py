"""Train robot policies from the scene vectors of a Generative Query Network.

The pipeline, one command each (`python train.py COMMAND --help`; installed: `gqn-rl COMMAND`):

    record     photograph random scenes, without labels           -> a data set
    pretrain   train a GQN to predict views it was not shown      -> an encoder
    probe      measure what the encoder's scene vector knows      -> a table
    train      learn control from the frozen scene vector         -> a policy   (the default)
    evaluate   replay a policy in episodes it never saw           -> numbers and a video

Others: view, imagine, benchmark, report, push and doctor (`python train.py --help`).

`python train.py` alone does the main job with an encoder that comes with the package: an arm learns to reach.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from gqn_rl.cli import main
    except KeyboardInterrupt:  # Ctrl-C before there is anything to stop
        sys.exit(130)
    sys.exit(main())
