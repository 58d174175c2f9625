"""All that the dashboard shows, one function a figure: each is one call and returns data and a figure.

    data, figure = views.exact_field(model, "mlp1_1", 3, 3)

The functions compose :mod:`analysis` and :mod:`analysis.figures` and compute nothing of their own; a module a page.
"""

from analysis.views._view import View
from analysis.views.attribution import (
    attribution_grid,
    attribution_map,
    faithfulness_scores,
    likeliest_classes,
    map_difference,
    randomised_parameters,
    removal,
    surrogate_correlations,
    wiped_maps,
)
from analysis.views.binarization import (
    activation_bits,
    layer_weights,
    sign_thresholds,
    signs_of_activations,
    weight_errors,
)
from analysis.views.bits import (
    bit_information,
    bit_margins,
    flipped_bits,
    flips_to_change,
    gap_by_flips,
    margin_ranges,
    static_threshold_map,
    static_thresholds,
)
from analysis.views.branches import branches_off, channel_terms, every_branch_off, term_shares, token_terms
from analysis.views.comparison import (
    accuracies,
    accuracy_by_class,
    confusion,
    disagreements,
    one_class_found,
    reliability,
)
from analysis.views.deployment import (
    bits_that_differ,
    file_sizes,
    layer_both_ways,
    nearest_bits,
    times_by_layer,
    times_by_threads,
)
from analysis.views.receptive_field import effective_field, exact_field, field_growth
from analysis.views.runs import accuracy_in_training, run_curve
from analysis.views.sampling import back_to_image, sampling_pattern, token_reconstruction, without_wrapping
from analysis.views.tradeoffs import (
    accuracy_against_cost,
    card_accuracies,
    design_costs,
    design_times,
    time_estimate,
)

__all__ = [
    "View",
    "accuracies",
    "accuracy_against_cost",
    "accuracy_by_class",
    "accuracy_in_training",
    "activation_bits",
    "attribution_grid",
    "attribution_map",
    "back_to_image",
    "bit_information",
    "bit_margins",
    "bits_that_differ",
    "branches_off",
    "card_accuracies",
    "channel_terms",
    "confusion",
    "design_costs",
    "design_times",
    "disagreements",
    "effective_field",
    "every_branch_off",
    "exact_field",
    "faithfulness_scores",
    "field_growth",
    "file_sizes",
    "flipped_bits",
    "flips_to_change",
    "gap_by_flips",
    "layer_both_ways",
    "layer_weights",
    "likeliest_classes",
    "map_difference",
    "margin_ranges",
    "nearest_bits",
    "one_class_found",
    "randomised_parameters",
    "reliability",
    "removal",
    "run_curve",
    "sampling_pattern",
    "sign_thresholds",
    "signs_of_activations",
    "static_threshold_map",
    "static_thresholds",
    "surrogate_correlations",
    "term_shares",
    "time_estimate",
    "times_by_layer",
    "times_by_threads",
    "token_reconstruction",
    "token_terms",
    "weight_errors",
    "wiped_maps",
    "without_wrapping",
]
