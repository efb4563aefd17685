# SPDX-License-Identifier: Apache-2.0
"""What other libraries need so that the group is right inside them. There is a file per library.

`hooks.install` hooks a library at once if it is imported already, or right after it is imported.
The library's file is imported then.
"""
