# SPDX-License-Identifier: Apache-2.0
"""The control plane: groups, child caches, and the mutexes under which they are made and destroyed.

It has all that the patch touches, under the kernel's names. `cgroup` has the tree, `vmscan` has
reclaim and `workqueue` has the transient worker. `fork` and `vmscan` register handlers with the
layers below them, so they are imported with the package.
"""

from . import fork as fork
from . import vmscan as vmscan
