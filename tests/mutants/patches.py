"""Breakages of patches, pictures and synthetic tissue."""

from mutants.mutant import mutants_of

PCAM = mutants_of(
    "pcam",
    "test_pcam.py",
    (
        "the crop takes the first row off",
        "start = (n - size) // 2",
        "start = (n - size + 1) // 2",
        "::test_crop_and_normalize",
    ),
    (
        "seven of eight symmetries",
        "torch.randint(0, 8,",
        "torch.randint(0, 7,",
        "::test_augmentation_is_a_symmetry_of_the_square_and_repeatable",
    ),
    (
        "a reflection less",
        "turned.flip(-1) if element >= 4",
        "turned.flip(-1) if element > 4",
        "::test_augmentation_is_a_symmetry_of_the_square_and_repeatable",
    ),
    (
        "half turns at most",
        "2 * torch.pi * torch.rand",
        "torch.pi * torch.rand",
        "::test_any_angle_turns_about_the_centre",
    ),
    (
        "a shear instead of a rotation",
        "-angle.sin()",
        "angle.sin()",
        "::test_any_angle_turns_about_the_centre",
    ),
    (
        "the other patches are turned",
        "generator=generator) >= share",
        "generator=generator) < share",
        "::test_a_share_of_the_patches_is_turned_and_the_others_are_untouched",
    ),
    (
        "corners turn black",
        'padding_mode="border"',
        'padding_mode="zeros"',
        "::test_turning_a_grey_patch_leaves_it_grey",
    ),
    (
        "black is infinitely dense",
        "clamp_min(1) / 255",
        "clamp_min(0) / 255",
        "::test_stains_get_weaker_and_stronger_and_black_stays_finite",
    ),
    (
        "stains get stronger only",
        "(2 * torch.rand(2, len(images), 3, generator=generator) - 1)",
        "torch.rand(2, len(images), 3, generator=generator)",
        "::test_stains_get_weaker_and_stronger_and_black_stays_finite",
    ),
    (
        "light beyond white",
        "(-changed).exp().clamp_max(1)",
        "(-changed).exp()",
        "::test_stains_get_weaker_and_stronger_and_black_stays_finite",
    ),
    (
        "floats are normalized in place",
        "memory_format=torch.channels_last, copy=True",
        "memory_format=torch.channels_last, copy=False",
        "::test_crop_and_normalize",
    ),
    (
        "the darkest channel bounds the range",
        "low = min((0 - mean) / std",
        "low = max((0 - mean) / std",
        "::test_crop_and_normalize",
    ),
    (
        "the window turns with the tissue",
        "[cosine * x - sine * y, sine * x + cosine * y]",
        "[cosine * x + sine * y, -sine * x + cosine * y]",
        "::test_the_window_turns_against_the_tissue",
    ),
    (
        "the window is a cross",
        "np.abs(turned).max(0)",
        "np.abs(turned).min(0)",
        "::test_the_label_window_is_a_square_that_d4_keeps",
    ),
    (
        "all of the window must be tumour",
        "tumour[:, label_window(angle)].any(1)",
        "tumour[:, label_window(angle)].all(1)",
        "::test_label_changes",
    ),
    (
        "slabs keep their order",
        "patches[torch.randperm(len(patches), generator=generator)]",
        "patches",
        "::test_shuffling_a_chunked_file_mixes_it_well",
    ),
    (
        "the newest slab goes first",
        "popitem(last=False)",
        "popitem(last=True)",
        "::test_an_epoch_of_a_chunked_file_reads_each_slab_once",
    ),
    (
        "a limit takes the last labels",
        "self.labels = self.labels[:limit]",
        "self.labels = self.labels[-limit:]",
        "::test_a_limit_takes_the_first_patches_and_hides_the_others",
    ),
    (
        "one patch beyond the limit",
        "indices.max() >= len(self)",
        "indices.max() > len(self)",
        "::test_a_limit_takes_the_first_patches_and_hides_the_others",
    ),
    (
        "negative indices count from the end of the file",
        "indices.min() < 0 or",
        "",
        "::test_a_limit_takes_the_first_patches_and_hides_the_others",
    ),
    (
        "one good label is enough",
        "np.isin(labels, (0, 1)).all()",
        "np.isin(labels, (0, 1)).any()",
        "::test_a_single_bad_label_is_refused",
    ),
    (
        "batches are transposed",
        "permute(0, 3, 1, 2), torch",
        "permute(0, 3, 2, 1), torch",
        "::test_crop_and_normalize",
    ),
)

IMAGES = mutants_of(
    "images",
    "test_pcam.py::test_an_image_file_gives_what_the_data_set_gives",
    ("images are transposed", "values.copy()).permute(2, 0, 1)", "values.copy()).permute(2, 1, 0)"),
)

WINDOWS = mutants_of(
    "windows",
    "test_windows.py",
    (
        "what is left over stands on one side",
        "range((length - size) % stride // 2, length - size + 1, stride)",
        "range(0, length - size + 1, stride)",
        "::test_the_map_of_a_turned_picture_is_the_turned_map",
    ),
    (
        "the last window is left out",
        "length - size + 1, stride)",
        "length - size, stride)",
        "::test_windows_are_the_pieces_of_the_picture",
    ),
    (
        "rows and columns of pixels change places",
        "picture[row : row + windows.size, column : column + windows.size]",
        "picture[column : column + windows.size, row : row + windows.size]",
        "::test_windows_are_the_pieces_of_the_picture",
    ),
    (
        "even rests break it",
        "% self.stride % 2 == 0 for",
        "% self.stride % 2 == 1 for",
        "::test_exact_means_that_turned_windows_are_windows",
    ),
    (
        "a stride further off is named",
        "range(min(self.stride - 1, way), 0, -1)",
        "range(1, min(self.stride - 1, way) + 1)",
        "test_pictures.py::test_the_strides_that_are_named_fit_and_none_is_nearer",
    ),
)

PICTURES = mutants_of(
    "cli/pictures",
    "test_pictures.py",
    (
        "row and column change places in the table",
        "writer.writerow([name, row, column,",
        "writer.writerow([name, column, row,",
        "::test_a_row_is_what_the_cut_patch_gets",
    ),
    (
        "the class is the other one",
        "int(probability > 0.5)",
        "int(probability < 0.5)",
        "::test_a_row_is_what_the_cut_patch_gets",
    ),
    (
        "the map of one picture replaces another's",
        "taken.add(path)",
        "taken.discard(path)",
        "::test_maps_are_pictures_in_a_folder_of_their_own",
    ),
    (
        "a map may replace a picture",
        "beside = path.parent if",
        "beside = path if",
        "::test_an_input_is_never_overwritten_by_a_map",
    ),
    (
        "the first window is named, not the unanswered one",
        "column {windows.columns[columns[0]]}",
        "column {windows.columns[rows[0]]}",
        "::test_windows_without_an_answer_are_counted_and_the_others_answered",
    ),
)

STAINS = mutants_of(
    "stains",
    "test_tissue.py",
    ("light grows with stain", "* np.exp(-density)", "* np.exp(density)", "::test_colours"),
    (
        "colours and stains change places",
        "slide.stains[:, channel], amounts",
        "slide.stains[channel], amounts",
        "::test_a_version_draws_the_same_patches",
    ),
    (
        "vectors are of unit length by colour",
        "np.linalg.norm(vectors, axis=1, keepdims=True)",
        "np.linalg.norm(vectors, axis=0, keepdims=True)",
        "::test_a_version_draws_the_same_patches",
    ),
    (
        "the scanner blurs",
        "light += np.float32(slide.sharpening)",
        "light -= np.float32(slide.sharpening)",
        "::test_power_spectrum",
    ),
)

MUTANTS = [*PCAM, *IMAGES, *WINDOWS, *PICTURES, *STAINS]
