import random
from itertools import combinations, pairwise

from frostline.autograd.layout import Box, arrange


def overlapping(layout, boxes, gap_x):
    placed = {
        node: (x - boxes[node].left, y, x + boxes[node].right, y + boxes[node].height)
        for node, (x, y) in layout.axis.items()
    }
    return [
        (one, other)
        for one, other in combinations(placed, 2)
        if placed[one][0] < placed[other][2] + gap_x
        and placed[other][0] < placed[one][2] + gap_x
        and placed[one][1] < placed[other][3]
        and placed[other][1] < placed[one][3]
    ]


def test_a_chain_stands_upright():
    boxes = {node: Box(10 + node, 20, 30) for node in range(5)}
    layout = arrange(boxes, [(node, node + 1) for node in range(4)], gap_x=10, gap_y=20)
    assert {x for x, _ in layout.axis.values()} == {14}
    assert [y for _, y in layout.axis.values()] == [0, 50, 100, 150, 200]
    assert layout.height == 230


def test_the_first_input_is_the_main_road_and_a_skip_runs_beside_it():
    boxes = {node: Box(20, 20, 30) for node in range(4)}
    layout = arrange(boxes, [(0, 1), (0, 3), (1, 2), (2, 3)], gap_x=10, gap_y=20)
    assert len({x for x, _ in layout.axis.values()}) == 1
    lane = {x for x, _ in layout.routes[0, 3][2:-1]}
    assert len(lane) == 1
    assert min(lane) >= 20 + 20 + 10  # right of the boxes it passes


def test_random_graphs_have_no_overlapping_boxes_and_edges_run_downwards():
    for seed in range(40):
        draw = random.Random(seed)
        nodes = draw.randint(2, 30)
        boxes = {node: Box(draw.uniform(5, 60), draw.uniform(5, 200), draw.uniform(10, 80)) for node in range(nodes)}
        edges = [(draw.randrange(node), node) for node in range(1, nodes) for _ in range(draw.randint(1, 3))]
        layout = arrange(boxes, edges, gap_x=9.99, gap_y=20)
        assert set(layout.axis) == set(boxes)
        assert overlapping(layout, boxes, 9.9) == [], seed
        assert min(x - boxes[node].left for node, (x, _) in layout.axis.items()) >= -1e-6
        assert max(x + boxes[node].right for node, (x, _) in layout.axis.items()) <= layout.width + 1e-6
        for (upper, lower), points in layout.routes.items():
            assert points[0] == (layout.axis[upper][0], layout.axis[upper][1] + boxes[upper].height)
            assert points[-1] == layout.axis[lower]
            assert all(start[1] <= end[1] for start, end in pairwise(points))


def test_a_line_passes_no_box():
    for seed in range(40):
        draw = random.Random(seed)
        boxes = {node: Box(draw.uniform(5, 60), draw.uniform(5, 90), draw.uniform(10, 80)) for node in range(20)}
        edges = [(draw.randrange(node), node) for node in range(1, 20) for _ in range(2)]
        layout = arrange(boxes, edges, gap_x=10, gap_y=20)
        for edge, points in layout.routes.items():
            for (x0, y0), (x1, y1) in pairwise(points):
                if x0 != x1:
                    continue  # the curves run between layers
                for node, (x, y) in layout.axis.items():
                    if node not in edge:
                        inside = x - boxes[node].left < x0 < x + boxes[node].right
                        assert not (inside and y0 < y + boxes[node].height and y < y1), (seed, edge, node)
