# SPDX-License-Identifier: Apache-2.0
"""The control plane: groups, child caches, and under which mutex they are made and destroyed.

It is all that the patch touches, under the kernel's names; `cgroup` has the tree, `vmscan` reclaim,
`workqueue` the transient worker. `fork` and `vmscan` register with what is below them, so they are
read with the package.
"""

from . import fork as fork
from . import vmscan as vmscan
