// One compressed layer, weights cold, against the device's dense product in the same run.
#include "session.hpp"
#include "sparlow/layer.hpp"
#include "tensors.hpp"
#include "verify.hpp"

namespace sparlow::bench {
namespace {

struct Setting {
  LayerSize size;
  Format format;
  DType dtype;
  Index rank;
};

// Copies of one layer that take turns, and the dense weights they are compared with.
class Contest {
 public:
  Contest(Device& device, const Setting& setting)
      : device_(device),
        setting_(setting),
        first_(random_layer(setting.format, setting.dtype, setting.size.d_out, setting.size.d_in, setting.rank, 1)),
        dense_dtype_(device.dense_dtype(setting.dtype)) {
    make_layers(cold_copies(device, first_.bytes()));
    const std::int64_t count = setting.size.d_out * setting.size.d_in;
    dense_values_ = random_values(count, 7, dense_dtype_);
    const int copies = cold_copies(device, count * bytes_of(dense_dtype_));
    for (int i = 0; i < copies; ++i) dense_.emplace_back(device, dense_values_);
  }

  Row measure(Index tokens, int repeats) {
    const Index d_out = setting_.size.d_out, d_in = setting_.size.d_in;
    const Product ours = packed_product(tokens), theirs = dense_product(tokens);
    const auto values = random_values(tokens * d_in, 11, setting_.dtype);
    const auto dense_values = random_values(tokens * d_in, 11, dense_dtype_);
    const Uploaded x(device_, values), y(device_, poison(ours));
    const Uploaded dense_x(device_, dense_values), dense_y(device_, poison(theirs));
    const std::int64_t room = layers_[0]->workspace_bytes(tokens);
    const std::shared_ptr<void> workspace = device_.allocate(room);
    const Way packed{[&](int i) {
                       layers_[i % layers_.size()]->forward(x.data(), y.data(), tokens, workspace.get(), room,
                                                            device_.stream());
                     },
                     static_cast<int>(layers_.size()), false, true};
    const Way dense{[&](int i) {
                      device_.dense(dense_x.data(), dense_[i % dense_.size()].data(), dense_y.data(), tokens, d_out,
                                    d_in, dense_dtype_);
                    },
                    static_cast<int>(dense_.size()), true, true};
    const std::vector<Spread> seconds = device_.measure({packed, dense}, repeats);
    Row row = describe(tokens, seconds[0]);
    row.baseline = Baseline{device_.dense_name(setting_.dtype), seconds[1]};
    row.more.add("copies", static_cast<int>(layers_.size())).add("error", verify(device_, ours, values, y));
    row.more.add("dense_error", verify(device_, theirs, dense_values, dense_y));
    return row;
  }

 private:
  void make_layers(int copies) {
    const bool host = device_.name() == "cpu";
    std::shared_ptr<Backend> backend = host ? nullptr : make_backend(device_.name(), device_.stream());
    std::shared_ptr<LinearOps> ops = host ? nullptr : make_linear_ops(device_.name());
    if (host) tensors_.assign(static_cast<std::size_t>(copies), first_);
    for (int i = 0; i < copies; ++i)
      layers_.push_back(host ? make_cpu_layer(first_.shape, tensors_[static_cast<std::size_t>(i)].tensors(), i == 0)
                             : make_device_layer(backend, ops, device_.stream(), first_.shape, first_.tensors()));
    if (ops != nullptr) ops_ = ops;
  }

  Row describe(Index tokens, const Spread& seconds) const {
    const Index d_out = setting_.size.d_out, d_in = setting_.size.d_in;
    const std::string shape = std::to_string(d_out) + "x" + std::to_string(d_in);
    const std::string format(sparlow::name_of(setting_.format)), dtype(name_of(setting_.dtype));
    Row row;
    row.seconds = seconds;
    row.label = shape + " " + format + " " + dtype + " rank " + std::to_string(setting_.rank) + ", " +
                std::to_string(tokens) + " tokens";
    row.where.add("device", device_.name()).add("layer", setting_.size.name).add("d_out", d_out).add("d_in", d_in);
    row.where.add("format", format).add("dtype", dtype).add("rank", setting_.rank).add("tokens", tokens);
    const auto moved = static_cast<double>(tokens * (d_out + d_in) * bytes_of(setting_.dtype));
    row.bytes = static_cast<double>(first_.bytes()) + moved;
    row.flops = 2.0 * static_cast<double>(tokens * (first_.shape.stored + setting_.rank * (d_out + d_in)));
    row.dense_flops = 2.0 * static_cast<double>(tokens * d_out * d_in);
    row.ceiling = setting_.dtype;
    const LinearShape linear{d_out, d_in, setting_.rank, setting_.dtype};
    row.more.add("kernel", ops_ == nullptr ? "rows" : std::string(ops_->kernel(linear, tokens)));
    row.more.add("weight_bytes", first_.bytes()).add("count", setting_.size.count);
    return row;
  }

  Product packed_product(Index tokens) const {
    return {"the layer",        tokens,         setting_.size.d_out,
            setting_.size.d_in, setting_.dtype, [this](Index row) { return first_.dense_row(row); }};
  }

  Product dense_product(Index tokens) const {
    const Index d_in = setting_.size.d_in;
    const auto row = [this, d_in](Index i) {
      std::vector<double> values(static_cast<std::size_t>(d_in));
      for (Index j = 0; j < d_in; ++j)
        values[static_cast<std::size_t>(j)] = value_at(dense_values_.data(), i * d_in + j, dense_dtype_);
      return values;
    };
    return {device_.dense_name(setting_.dtype), tokens, setting_.size.d_out, d_in, dense_dtype_, row};
  }

  Device& device_;
  Setting setting_;
  RandomLayer first_;
  std::vector<RandomLayer> tensors_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::shared_ptr<LinearOps> ops_;
  DType dense_dtype_;
  std::vector<std::byte> dense_values_;
  std::vector<Uploaded> dense_;
};

// Both sides of all layers of the model, one token count.
struct Total {
  double seconds = 0, dense = 0;
};

void measure_setting(Session& session, const Setting& setting, std::map<Index, Total>& totals) {
  Contest contest(session.device(), setting);
  for (const Index tokens : session.options().numbers("tokens", 1, 65536)) {
    const Row row = contest.measure(tokens, session.smoke() ? 3 : session.repeats());
    session.write(row);
    const auto count = static_cast<double>(setting.size.count);
    totals[tokens].seconds += count * row.seconds.median;
    totals[tokens].dense += count * row.baseline->seconds.median;
  }
}

void write_totals(Session& session, const Json& what, const std::map<Index, Total>& totals) {
  const std::string model = session.options().text("model");
  for (const auto& [tokens, total] : totals) {
    const double ratio = total.dense / total.seconds;
    Json json;
    json.add("kind", "total").add("bench", "forward").add("model", model).add("tokens", tokens).add("what", what);
    json.add("seconds", total.seconds).add("dense_seconds", total.dense).add("times_dense", ratio);
    session.line(json);
    session.note("all linear layers of " + model + ", " + std::to_string(tokens) +
                 " tokens: " + std::to_string(1e3 * total.seconds) + " ms, dense " + std::to_string(1e3 * total.dense) +
                 " ms, " + std::to_string(ratio) + " times dense");
  }
}

void run(Session& session) {
  for (const std::string& format : session.options().list("formats"))
    for (const std::string& dtype : session.options().list("dtypes"))
      for (const Index rank : session.options().numbers("ranks", 0, 4096)) {
        std::map<Index, Total> totals;
        for (const LayerSize& size : session.layers())
          measure_setting(session, {size, parse_format(format), parse_dtype(dtype), rank}, totals);
        const Json what = Json().add("format", format).add("dtype", dtype).add("rank", rank);
        if (!session.options().text("model").empty()) write_totals(session, what, totals);
      }
}

}  // namespace
}  // namespace sparlow::bench

int main(int argc, char** argv) {
  return sparlow::bench::run_program({"forward",
                                      "compressed linear layers against dense ones, weights cold",
                                      {{"formats", "nm24", "nm24, bitmap, dense"},
                                       {"dtypes", "bf16", "bf16, f16, f32"},
                                       {"ranks", "64", "of the low-rank part"},
                                       {"tokens", "1,8,64", "how many at once"}},
                                      &sparlow::bench::run},
                                     argc, argv);
}
