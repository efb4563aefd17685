# SPDX-License-Identifier: Apache-2.0
"""What other libraries need so that the group is right inside them; one library per file.

`hooks.install` has them hooked: now if they are imported, else right after they are. The file
of a library is imported with it.
"""
