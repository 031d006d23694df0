"""Images with COCO JSON annotations, such as a Roboflow or CVAT export.

    python main.py --config=configs/coco.py --config.data.root=DIR

"""
from configs import default


def get_config():
    return default.get_config()
