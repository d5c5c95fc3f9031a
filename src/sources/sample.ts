/**
 * Where the embedded sample is: a Llama of 4 million parameters and two texts. sample/README.md
 * tells how they were made.
 */

/** The sample model's folder. */
export const SAMPLE_MODEL = new URL("../../sample/model/", import.meta.url);

/** Text for calibration; the model was trained on it. */
export const SAMPLE_CALIBRATION = new URL("../../sample/corpus/calibration.txt", import.meta.url);

/** Text for measuring; the model was not trained on it. */
export const SAMPLE_VALIDATION = new URL("../../sample/corpus/validation.txt", import.meta.url);
