from tests.fixtures.objects import keys, objects, root

__all__ = ["keys", "objects", "root"]
