// Projections onto a pattern, matrices cold, against a plain copy of the same matrix: a projection reads a matrix of
// f32 and writes a mask of one byte an entry.
#include "matrices.hpp"
#include "session.hpp"

namespace sparlow::bench {
namespace {

constexpr double kReadAndWritten = 5;  // bytes an entry

void measure(Session& session, Backend& backend, const LayerSize& size, const std::vector<std::string>& patterns) {
  Device& device = session.device();
  const int copies = cold_copies(device, size.d_out * size.d_in * std::int64_t{sizeof(float)});
  const std::vector<Matrix> scores = copies_of(backend, normal(backend, size.d_out, size.d_in, 1).view(), copies);
  Matrix copied = backend.matrix(size.d_out, size.d_in);
  Mask mask = backend.mask(size.d_out, size.d_in);
  const auto score = [&](int i) { return scores[static_cast<std::size_t>(i) % scores.size()].view(); };
  for (const std::string& text : patterns) {
    const Pattern pattern = Pattern::parse(text);
    pattern.check_shape(size.d_out, size.d_in, size.name);
    const Way project{[&](int i) { backend.project(score(i), pattern, mask); }, copies};
    const Way copy{[&](int i) { backend.copy(score(i), copied); }, copies};
    const std::vector<Spread> seconds = device.measure({project, copy}, session.smoke() ? 3 : session.repeats());
    Row row;
    row.label = std::to_string(size.d_out) + "x" + std::to_string(size.d_in) + " " + text;
    row.where.add("device", device.name()).add("layer", size.name).add("d_out", size.d_out).add("d_in", size.d_in);
    row.where.add("pattern", text);
    row.seconds = seconds[0];
    row.baseline = Baseline{"plain copy", seconds[1]};
    row.bytes = kReadAndWritten * static_cast<double>(size.d_out * size.d_in);
    row.more.add("copies", copies);
    session.write(row);
  }
}

void run(Session& session) {
  const auto backend = make_backend(session.device().name(), session.device().stream());
  for (const LayerSize& size : session.layers()) measure(session, *backend, size, session.options().list("patterns"));
}

}  // namespace
}  // namespace sparlow::bench

int main(int argc, char** argv) {
  return sparlow::bench::run_program(
      {"project",
       "projections onto a pattern, against a plain copy",
       {{"patterns", "2:4,4:8,1:4,0.5@row,0.5@matrix", "n:m, DENSITY@row, DENSITY@matrix"}},
       &sparlow::bench::run},
      argc, argv);
}
